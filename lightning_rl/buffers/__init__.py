"""Where experience is kept: the rollout of one policy, and the replay buffer of the last transitions."""

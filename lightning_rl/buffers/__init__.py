"""Where experience is kept: the rollout of one policy, and the last transitions for replay."""

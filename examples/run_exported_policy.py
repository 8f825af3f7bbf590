"""Run a policy written by `lightning-rl export` with onnxruntime alone: no lightning_rl, no torch.

lightning-rl export --ckpt_path RUN_DIR/checkpoints/best.ckpt --output policy.onnx
python examples/run_exported_policy.py policy.onnx CartPole-v1
"""

import sys

import gymnasium
import numpy as np
import onnxruntime


def main(path="policy.onnx", env_id="CartPole-v1", total_env_steps=1_000):
    policy, env = onnxruntime.InferenceSession(path), gymnasium.make(env_id)
    observation, _ = env.reset(seed=0)
    rewards = [0.0]
    for _ in range(total_env_steps):
        batch = np.asarray(observation, np.float32)[None]  # the policy takes rows
        (action,) = policy.run(["action"], {"observation": batch})
        observation, reward, terminated, truncated, _ = env.step(action[0])
        rewards[-1] += float(reward)
        if terminated or truncated:
            observation, _ = env.reset()
            rewards.append(0.0)
    print(
        f"{len(rewards) - 1} episodes of {policy.get_modelmeta().custom_metadata_map['algorithm']}"
    )
    print(f"mean reward {np.mean(rewards[:-1] or rewards):.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])

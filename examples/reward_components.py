"""See which terms of a reward an agent earns: Pendulum-v1 with its cost taken apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium

from lightning_rl import PPO, EnvConfig, run


class CostTerms(gymnasium.Wrapper):
    """Report Pendulum's three costs by name, and the angle as a plain number to plot."""

    def step(self, action: Any) -> Any:
        """Step, and add `reward_components` (they add up to the reward) and `log` to the info."""
        pendulum = self.unwrapped
        angle, speed = pendulum.state
        angle = (angle + 3.141592653589793) % 6.283185307179586 - 3.141592653589793
        observation, reward, terminated, truncated, info = self.env.step(action)
        info["reward_components"] = {
            "angle": -(angle**2),
            "speed": -0.1 * speed**2,
            "torque": -0.001 * pendulum.last_u**2,
        }
        info["log"] = {"/angle": abs(angle)}
        return observation, reward, terminated, truncated, info


def make_env(**kwargs: Any) -> gymnasium.Env:
    """Build the wrapped environment."""
    return CostTerms(gymnasium.make("Pendulum-v1", **kwargs))


def main(total_env_steps: int = 100_000) -> dict[str, float]:
    """Return what `metrics.json` says last about each component."""
    env = EnvConfig(factory=make_env, num_envs=8, normalize_reward=True)
    agent = PPO(env=env, total_env_steps=total_env_steps, num_steps=256, gamma=0.9, seed=1)
    result = run(agent, trainer={"log_every_n_steps": 1})
    final = json.loads(Path(result.directory, "metrics.json").read_text())["final"]
    terms = {tag: value for tag, value in final.items() if tag.startswith(("reward", "env/"))}
    for tag, value in terms.items():
        print(f"{tag:24} {value:10.3f}")
    return terms


if __name__ == "__main__":
    main()

"""Watch training with a callback of your own, and with plain functions attached to events."""

from __future__ import annotations

from typing import Any

from lightning_rl import PPO, run
from lightning_rl.callbacks import Callback, EventCallback
from lightning_rl.types import Episode


class LongestEpisode(Callback):
    """Log the longest episode so far as `episode/longest`, and keep it over a resume."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.longest = 0

    def on_episode_end(self, trainer: Any, agent: Any, episode: Episode) -> None:
        """Compare with the longest so far."""
        self.longest = max(self.longest, episode.length)

    def metrics(self, trainer: Any, agent: Any) -> dict[str, float]:
        """Add one column to each training row."""
        return {"episode/longest": float(self.longest)}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know; tensors and plain values only."""
        return {"longest": self.longest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.longest = state_dict["longest"]


def main(total_env_steps: int = 50_000) -> int:
    """Return the length of the longest training episode."""
    longest = LongestEpisode()
    rewards: list[float] = []
    events = EventCallback(
        on_episode_end=lambda trainer, agent, episode: rewards.append(episode.reward)
    )
    agent = PPO(env="CartPole-v1", total_env_steps=total_env_steps, seed=1)
    run(agent, trainer={"callbacks": [longest, events]})
    print(f"{len(rewards)} episodes, the longest of {longest.longest} env steps")
    return longest.longest


if __name__ == "__main__":
    main()

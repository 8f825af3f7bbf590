"""Whole episodes out of rollouts of fixed length."""

from __future__ import annotations

from typing import Any

from lightning_rl.buffers.episodes import OpenEpisodes
from lightning_rl.experience.on_policy import OnPolicySource


class EpisodicSource(OnPolicySource):
    """An `OnPolicySource` with the steps whose episodes have not ended.

    Attributes:
        open_episodes: Filled and emptied by the algorithm's `estimate`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.open_episodes = OpenEpisodes()

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {**super().state_dict(), "open_episodes": self.open_episodes.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        super().load_state_dict(state)
        if state["collector"]["level"] == "boundary":
            self.open_episodes.clear()  # they were dropped: their ends will never be known
        else:
            self.open_episodes.load_state_dict(state["open_episodes"])

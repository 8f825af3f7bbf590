"""Steps that wait for the end of their episode, which decides their returns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_rl.functional.returns import reverse_discounted_sum
from lightning_rl.functional.trees import map_tree


class OpenEpisodes:
    """Steps of earlier rollouts whose episodes have not ended, with what they have earned so far.

    A step's return is `earned + discount * (the return of the first step of the next rollout)`, so
    nothing but these two numbers is kept of what follows it.
    """

    def __init__(self) -> None:
        self._columns: dict[str, Any] | None = None

    def absorb(
        self,
        steps: dict[str, Any],
        reward: Tensor,
        ended: Tensor,
        gamma: float,
        valid: Tensor | None = None,
    ) -> dict[str, Any]:
        """Take a rollout in, and return the steps whose episode has ended in it, oldest first.

        Args:
            steps: Columns `(T, N, ...)` to keep of each step; a tensor, or a tree of them.
            reward: `(T, N)`; at a truncated end with the discounted value of what would follow.
            ended: `(T, N)` bool, terminated or truncated.
            gamma: Discount in [0, 1].
            valid: `(T, N)` bool, False where no step was made; None for all.

        Returns:
            The columns as rows `(B, ...)`, and `return` `(B,)`; B may be 0.
        """
        num_steps, num_envs = reward.shape
        earned = reverse_discounted_sum(reward, gamma * ended.logical_not().to(reward.dtype))
        # A step is complete when an end follows it: a reversed running "or".
        complete = ended.flip(0).cummax(0).values.flip(0)
        left = torch.arange(num_steps, 0, -1, device=reward.device).to(reward.dtype)
        rows = {
            **steps,
            "return": earned,
            "discount": (gamma**left)[:, None].expand(num_steps, num_envs),
            "env": torch.arange(num_envs, device=reward.device).expand(num_steps, num_envs),
            "complete": complete,
        }
        columns = {name: map_tree(lambda leaf: leaf.flatten(0, 1), c) for name, c in rows.items()}
        if valid is not None:
            columns = _take(columns, valid.flatten().nonzero().squeeze(-1))
        if self._columns is not None:
            columns = _join(self._continued(earned[0], complete[0], gamma**num_steps), columns)
        done: Any = columns.pop("complete")
        self._columns = _take(columns, done.logical_not().nonzero().squeeze(-1))
        finished = _take(columns, done.nonzero().squeeze(-1))
        return {name: c for name, c in finished.items() if name not in ("discount", "env")}

    def _continued(self, earned: Tensor, complete: Tensor, discount: float) -> dict[str, Any]:
        """Return the waiting steps with what the first step of a new rollout `(N,)` earns."""
        waiting: dict[str, Any] = dict(self._columns or {})
        env = waiting["env"]
        waiting["return"] = waiting["return"] + waiting["discount"] * earned[env]
        waiting["discount"] = waiting["discount"] * discount
        waiting["complete"] = complete[env]
        return waiting

    def __len__(self) -> int:
        return 0 if self._columns is None else len(self._columns["env"])

    def clear(self) -> None:
        """Forget all steps."""
        self._columns = None

    def state_dict(self) -> dict[str, Any]:
        """Return the waiting steps as tensors."""
        return {"columns": self._columns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._columns = state["columns"]


def _take(columns: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    return {name: map_tree(lambda leaf: leaf[rows], column) for name, column in columns.items()}


def _join(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return {
        name: map_tree(lambda one, other: torch.cat((one, other)), column, second[name])
        for name, column in first.items()
    }

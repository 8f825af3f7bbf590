"""Replay of stacked frames that stores each frame once.

A stack of k frames shares k - 1 of them with the stack before, and `next_observation` all but one
with `observation`: a plain buffer keeps every frame 2 k times. Here a transition of 84 x 84 x 4
bytes costs 7.1 kB instead of 56 kB.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from lightning_rl.buffers.replay import Replay, ReplayBuffer, Transitions
from lightning_rl.buffers.rollout import Rollout
from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.spaces import storage_dtype
from lightning_rl.errors import ConfigError
from lightning_rl.storage.segments import SegmentStore
from lightning_rl.types import Array, Observation, TensorObservation

_FINALS = 2**60
"""Last frames of episodes are a sequence of their own in the segments, numbered from here on."""


class FrameReplay(ReplayBuffer):
    """A ring of transitions whose observations are stacks of the last k frames.

    Stored are the newest frame of each observation, its age (steps since the episode began, at most
    k - 1; frames missing at the beginning are copies of the first, as `frame_stack` pads) and the
    last frame of each finished episode. The environments step together, so the frame before that of
    transition `i` is that of transition `i - num_envs`. Samples equal those of a `ReplayBuffer`.

    Args:
        capacity: Transitions kept.
        observation_space: Box `(k, *frame_shape)`.
        action_space: Space of one action.
        num_envs: Environments that fill the buffer in turn.

    Raises:
        ConfigError: For observations that are no stack.
    """

    def __init__(
        self,
        capacity: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        num_envs: int,
    ) -> None:
        if not isinstance(observation_space, spaces.Box) or not observation_space.shape:
            raise ConfigError(f"expected a Box of stacked frames, received {observation_space}")
        super().__init__(capacity, observation_space, action_space)
        self.num_envs = num_envs
        self.stack_size, *shape = observation_space.shape
        # Room for the history of the oldest transitions and the next frames of the newest.
        self._num_slots = capacity + self.stack_size * num_envs
        dtype = storage_dtype(observation_space)
        self._frames: Array = np.zeros((self._num_slots, *shape), dtype=dtype)
        self._finals: dict[int, Array] = {}
        self._finals_inserted = 0
        self._final_segments: dict[Path, list[dict[str, Any]]] = {}
        self._next_age: Array = np.zeros(num_envs, dtype=np.uint8)

    def _allocate(
        self, observation_space: spaces.Space, action_space: spaces.Space
    ) -> dict[str, Observation]:
        columns = super()._allocate(spaces.Discrete(1), action_space)
        del columns["observation"], columns["next_observation"]
        return {**columns, "age": np.zeros(self.capacity, dtype=np.uint8)}

    def add(self, rollout: Rollout) -> None:
        """Append the transitions of a full rollout, step by step, row by row within a step.

        Raises:
            ConfigError: When an environment skipped a step, so that rows do not follow in turn.
        """
        if rollout.valid is not None:
            raise ConfigError("stacked frames need environments that all step at once")
        observation: Any = rollout.observation
        for step in range(rollout.num_steps + 1):
            self._frames[self._slots(self.inserted, step)] = observation[step, :, -1]
        for (step, row), final in zip(rollout.final_index, rollout.final_observation, strict=True):
            number = self.inserted + step * self.num_envs + row
            self._keep_final(number, final[-1].copy())  # type: ignore[index]
        super().add(rollout)
        oldest = self.inserted - len(self)
        self._finals = {n: frame for n, frame in self._finals.items() if n >= oldest}

    def cut(self, count: int) -> None:
        """Mark the last `count` transitions as truncated, since their episodes were given up."""
        super().cut(count)
        self._next_age[:] = 0
        if not self.inserted:
            return
        number = self.inserted - self.num_envs
        last = enumerate(self._frames[self._slots(self.inserted, 0)].copy(), start=number)
        # Numbered anew, so that segments hold them all in order.
        self._finals = dict(sorted({**dict(last), **self._finals}.items()))
        self._finals_inserted += len(self._finals)

    def gather(self, rows: Array) -> Transitions:
        """Return the transitions of some rows."""
        columns = {name: torch.from_numpy(a.take(rows, axis=0)) for name, a in self._arrays.items()}
        frames = torch.from_numpy(self._stacks(rows, columns.pop("age").numpy()))
        return {"observation": frames[:, :-1], **columns, "next_observation": frames[:, 1:]}

    def take(self, name: str, rows: Array) -> TensorObservation:
        """Return the column `name` of some rows."""
        return self.gather(rows)[name] if name.endswith("observation") else super().take(name, rows)

    def recent(self, count: int) -> Transitions:
        """Return the last `count` transitions in the order in which they came."""
        first = self.inserted - min(count, len(self))
        return self.gather(np.arange(first, self.inserted) % self.capacity)

    def _stacks(self, rows: Array, ages: Array) -> Array:
        """Return the frames `(B, k + 1, *frame_shape)` of observations and what follows them."""
        numbers = self.inserted - 1 - (self.inserted - 1 - rows) % self.capacity
        back = np.arange(self.stack_size - 1, -2, -1)  # steps; the last one is the next frame
        steps = np.minimum(back, ages[:, None].astype(np.int64))
        frames = self._frames[(numbers[:, None] - steps * self.num_envs) % self._num_slots]
        for index, number in enumerate(numbers.tolist()):
            final = self._finals.get(number)
            if final is not None:
                frames[index, -1] = final
        return frames

    def _slots(self, number: int, step: int) -> Array:
        first = number + step * self.num_envs
        return np.arange(first, first + self.num_envs) % self._num_slots

    def _keep_final(self, number: int, frame: Array) -> None:
        self._finals[number] = frame
        self._finals_inserted += 1

    def _sources(self, rollout: Rollout) -> dict[str, Observation]:
        return {
            "action": rollout.action,
            "reward": rollout.reward,
            "terminated": rollout.terminated,
            "truncated": rollout.truncated,
            "age": self._ages(rollout.terminated | rollout.truncated),
        }

    def _ages(self, ended: Array) -> Array:
        """Return the ages `(T, N)` of a rollout's observations, and note that of the next ones."""
        ages = np.empty(ended.shape, dtype=np.uint8)
        for step, ends in enumerate(ended):
            ages[step] = self._next_age
            older = np.minimum(self._next_age + 1, self.stack_size - 1)
            self._next_age = np.where(ends, 0, older).astype(np.uint8)
        return ages

    # Checkpoints.

    @property
    def _first_kept(self) -> int:
        history = (self.stack_size - 1) * self.num_envs
        return max(0, self.inserted - len(self) - history)

    def state_dict(self) -> dict[str, Any]:
        """Return the cursors, and the frames that await the next transitions."""
        return {
            **super().state_dict(),
            "finals_inserted": self._finals_inserted,
            "next_age": torch.from_numpy(self._next_age.copy()),
            "next_frames": torch.from_numpy(self._frames[self._slots(self.inserted, 0)]),
        }

    def write_segments(self, store: SegmentStore) -> list[dict[str, Any]]:
        """Write what was added since the last call into new segments; return all references."""
        references = super().write_segments(store)
        first = _FINALS + self._finals_inserted - len(self._finals)
        finals = [r for r in self._final_segments.get(store.directory, []) if r["end"] > first]
        new = _FINALS + self._finals_inserted - (finals[-1]["end"] if finals else first)
        if new:
            numbers = list(self._finals)[-new:]
            columns = {
                "number": torch.tensor(numbers),
                "frame": torch.from_numpy(np.stack([self._finals[n] for n in numbers])),
            }
            finals.append(dict(store.append(_FINALS + self._finals_inserted - new, columns)))
        self._final_segments[store.directory] = finals
        return references + finals

    def segment_files(self, directory: Path) -> set[str]:
        """Return the names of the segments in `directory` that hold the present content."""
        finals = {reference["file"] for reference in self._final_segments.get(directory, [])}
        return super().segment_files(directory) | finals

    def load_segments(
        self, state: Mapping[str, Any], references: list[dict[str, Any]], store: SegmentStore
    ) -> None:
        """Restore what `state_dict` and `write_segments` saved."""
        finals = [item for item in references if item["start"] >= _FINALS]
        super().load_segments(state, [r for r in references if r["start"] < _FINALS], store)
        self._finals_inserted = state["finals_inserted"]
        self._next_age = state["next_age"].numpy().copy()
        self._frames[self._slots(self.inserted, 0)] = state["next_frames"].numpy()
        self._final_segments = {store.directory: finals}
        self._finals = {}
        if finals:
            first, end = finals[0]["start"], _FINALS + self._finals_inserted
            content = store.read(finals, first, end)
            oldest = self.inserted - len(self)
            numbers = zip(content["number"].tolist(), content["frame"].numpy(), strict=True)
            self._finals = {number: frame for number, frame in numbers if number >= oldest}

    def _rows(self, start: int, end: int) -> dict[str, Tensor]:
        frames = self._frames[np.arange(start, end) % self._num_slots]
        return {**super()._rows(start, end), "frame": torch.from_numpy(frames)}

    def _fill(self, content: dict[str, Tensor]) -> None:
        super()._fill(content)
        numbers = np.arange(self._first_kept, self.inserted)
        self._frames[numbers % self._num_slots] = content["frame"].numpy()


def make_replay(
    config: EnvConfig,
    capacity: int,
    observation_space: spaces.Space,
    action_space: spaces.Space,
) -> Replay:
    """Return a `FrameReplay` where `config` stacks frames of a Box, else a `ReplayBuffer`.

    Args:
        config: The environments that fill it.
        capacity: Transitions kept.
        observation_space: Flat space of one observation.
        action_space: Space of one action.
    """
    if (config.frame_stack or 1) > 1 and isinstance(observation_space, spaces.Box):
        return FrameReplay(capacity, observation_space, action_space, config.num_envs)
    return ReplayBuffer(capacity, observation_space, action_space)

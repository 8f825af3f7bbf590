"""A table of action values: one number for every discrete observation and action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from lightning_rl.errors import ConfigError
from lightning_rl.functional.trees import tree_items
from lightning_rl.types import Array, Observation, TensorObservation

MAX_ENTRIES = 2**27
"""Action values that a table may hold, 1 GiB of them."""

SUPPORTED = "Discrete, MultiDiscrete, MultiBinary, or a Tuple or Dict of these"


class TableRows(dict[int, list[float]]):
    """A table `(S, A)` for a loop in Python: rows as lists.

    A row is read once and kept, an entry written to list and table. Nobody else may write to the
    table meanwhile.
    """

    def __init__(self, array: Array) -> None:
        super().__init__()
        self._array = array
        self._entries: Any = array.data  # a memoryview: written in less time than NumPy takes

    def __missing__(self, row: int) -> list[float]:
        values: list[float] = self._array[row].tolist()
        self[row] = values
        return values

    def move(self, row: int, column: int, target: float, step_size: float) -> float:
        """Move an entry by `step_size` of its distance to `target`, which is returned."""
        values = self[row]
        value = values[column]
        error = target - value
        values[column] = self._entries[row, column] = value + step_size * error
        return error


class QTable(nn.Module):
    """Action values `(tables, S, A)` float64 of S observations and A actions.

    An observation of several integers has one row for each of their combinations (a mixed-radix
    number, the last integer counting fastest). The values are a parameter that no gradient reaches.
    They stay in main memory whatever device the module is moved to: they are read and written one
    at a time between env steps.

    Attributes:
        values: The parameter.
        arrays: Each table as a NumPy view `(S, A)` of it.

    Args:
        observation_space: A leaf space or a flat Dict.
        action_space: Discrete.
        owner: Name of the algorithm, for messages.
        num_tables: Tables that learn side by side; acting uses their mean.
        initial_value: Of every entry.

    Raises:
        ConfigError: For spaces that no table can be made of, or a table of more than `MAX_ENTRIES`.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        owner: str,
        num_tables: int = 1,
        initial_value: float = 0.0,
    ) -> None:
        super().__init__()
        if not isinstance(action_space, spaces.Discrete):
            raise ConfigError(f"{owner} expects a Discrete action space, received {action_space}")
        self._places = _places(observation_space, owner)
        self.num_states = 1
        for place in self._places:
            self.num_states *= place.size
        self.num_actions = int(action_space.n)
        entries = num_tables * self.num_states * self.num_actions
        if entries > MAX_ENTRIES:
            raise ConfigError(
                f"{owner} expects a table of at most {MAX_ENTRIES:,} action values, received "
                f"{self.num_states:,} observations x {self.num_actions} actions"
                f"{' x 2 tables' if num_tables == 2 else ''} = {entries:,} "
                f"({entries * 8 / 2**30:,.1f} GiB) for {observation_space}; use DQN"
            )
        shape = (num_tables, self.num_states, self.num_actions)
        values = torch.full(shape, initial_value, dtype=torch.float64)
        self.values = nn.Parameter(values, requires_grad=False)
        self.arrays: list[Array] = list(self.values.numpy())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QTable:
        """Change neither device nor dtype."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> QTable:
        """Return a copy whose views are of its own values."""
        copied = self.__new__(type(self))
        memo[id(self)] = copied
        nn.Module.__init__(copied)
        copied._places, copied.num_states = self._places, self.num_states
        copied.num_actions = self.num_actions
        copied.values = nn.Parameter(self.values.clone(), requires_grad=False)
        copied.arrays = list(copied.values.numpy())
        return copied

    def index(self, observation: Observation | TensorObservation) -> Any:
        """Return the rows `(...)` int64 of observations `(..., *obs_shape)`, arrays or tensors."""
        total: Any = 0
        leaves = {key: _integers(leaf) for key, leaf in tree_items(observation)}
        for key, component, _, size, start in self._places:
            leaf = leaves[key]
            value = leaf if component is None else leaf[component]
            total = total * size + (value - start if start else value)
        return total

    def row(self, observation: Observation) -> int:
        """Return `index` of one observation, `(*obs_shape)` or `(1, *obs_shape)`, quickly."""
        return self.row_reader(observation)()

    def rows(self, observation: Observation) -> list[int]:
        """Return `index` of `(N, *obs_shape)` as a list, quickly for one Discrete space."""
        if len(self._places) == 1 and not isinstance(observation, dict):
            start, rows = self._places[0].start, observation.ravel().tolist()
            return [row - start for row in rows] if start else rows
        return self.index(observation).tolist()  # type: ignore[no-any-return]

    def row_reader(self, observation: Observation) -> Callable[[], int]:
        """Return a function to `index` of one observation `(1, *obs_shape)`, rewritten in place."""
        leaves = dict(tree_items(observation))
        numbers = [(leaves[p.key].item, p.flat_index, p.size, p.start) for p in self._places]
        if len(numbers) == 1:
            read, _, _, start = numbers[0]
            return (lambda: read() - start) if start else read

        def read_all() -> int:
            total = 0
            for read, flat_index, size, start in numbers:
                total = total * size + read(flat_index) - start
            return total

        return read_all

    def action_values(self, rows: Any) -> Array:
        """Return the mean of the tables at `rows`, `(..., A)`."""
        values: Array = np.mean([array[rows] for array in self.arrays], axis=0)
        return values

    def forward(self, observation: TensorObservation) -> Tensor:
        """Return the action values `(B, A)` of `(B, *obs_shape)`: the mean of the tables."""
        return self.values.mean(0)[self.index(observation).to(self.values.device)]


class Place(NamedTuple):
    """One integer of an observation.

    Attributes:
        key: Of its leaf.
        component: Its index in a batch of leaves; None for Discrete.
        flat_index: Its number within one leaf.
        size: How many values it has.
        start: The first of them.
    """

    key: str
    component: tuple[Any, ...] | None
    flat_index: int
    size: int
    start: int


def _places(space: spaces.Space, owner: str) -> list[Place]:
    leaves = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
    places: list[Place] = []
    for key, leaf in leaves.items():
        if isinstance(leaf, spaces.Discrete):
            places.append(Place(key, None, 0, int(leaf.n), int(leaf.start)))
        elif isinstance(leaf, spaces.MultiDiscrete | spaces.MultiBinary):
            for flat_index, component in enumerate(np.ndindex(*leaf.shape)):
                index, size, start = (Ellipsis, *component), 2, 0
                if isinstance(leaf, spaces.MultiDiscrete):
                    size, start = int(leaf.nvec[component]), int(leaf.start[component])
                places.append(Place(key, index, flat_index, size, start))
        else:
            raise ConfigError(
                f"{owner} expects an observation space of {SUPPORTED}, received {space}; use DQN"
            )
    return places


def _integers(leaf: Any) -> Any:
    return leaf.long() if isinstance(leaf, Tensor) else leaf.astype(np.int64, copy=False)

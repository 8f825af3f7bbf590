"""Random streams: one generator per component, so that none can disturb another's draws."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_rl.envs.seeding import episode_seed

_NAMES = ("action", "minibatch", "exploration", "replay", "update")


class RandomStreams:
    """Named generators, all derived from one seed.

    Args:
        seed: The run's seed.
        rank: Process number in a distributed run; each rank draws its own numbers.

    Attributes:
        last_noise: Last value `(N, A)` of exploration noise that is correlated in time.
    """

    def __init__(self, seed: int, rank: int = 0) -> None:
        self._torch: dict[str, torch.Generator] = {}
        self._numpy: dict[str, np.random.Generator] = {}
        self.last_noise: Tensor | None = None
        for index, name in enumerate(_NAMES):
            stream_seed = episode_seed(seed, "scratch", rank * len(_NAMES) + index)
            self._torch[name] = torch.Generator().manual_seed(stream_seed)
            self._numpy[name] = np.random.Generator(np.random.PCG64(stream_seed))

    def torch(self, name: str) -> torch.Generator:
        """Return the CPU generator `name`: action, minibatch, exploration, replay or update."""
        return self._torch[name]

    def numpy(self, name: str) -> np.random.Generator:
        """Return the NumPy generator called `name`."""
        return self._numpy[name]

    def state_dict(self) -> dict[str, Any]:
        """Return the position of every stream."""
        return {
            "torch": {name: generator.get_state() for name, generator in self._torch.items()},
            "numpy": {
                name: generator.bit_generator.state for name, generator in self._numpy.items()
            },
            "last_noise": self.last_noise,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue every stream where `state_dict` found it."""
        for name, generator in self._torch.items():
            generator.set_state(state["torch"][name])
        for name, numpy_generator in self._numpy.items():
            numpy_generator.bit_generator.state = state["numpy"][name]
        self.last_noise = state.get("last_noise")


def global_random_state() -> dict[str, Any]:
    """Return Python's, NumPy's and torch's global streams as primitives and tensors."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # type: ignore[misc]
    state: dict[str, Any] = {
        "python": [version, torch.from_numpy(np.array(internal, dtype=np.int64)), gauss],
        "numpy": [
            name,
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_global_random_state(state: dict[str, Any]) -> None:
    """Put the global streams back; the counterpart of `global_random_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    cuda: list[Tensor] = state.get("cuda", [])
    if cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(cuda[: torch.cuda.device_count()])


def resolve_seed(seed: int | None) -> int:
    """Return `seed`, else what `seed_everything` set, else one from the operating system."""
    if seed is not None:
        return seed
    announced = os.environ.get("PL_GLOBAL_SEED")
    return int(announced) if announced else secrets.randbelow(2**31)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global stream inside the context, and put it back behind it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield

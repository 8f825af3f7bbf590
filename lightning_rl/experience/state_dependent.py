"""Acting with state-dependent noise: how long its matrix is kept; that travels with checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from lightning_rl.errors import ConfigError
from lightning_rl.types import Array

_SEEDS = 2**63
"""Number of seeds: those of an int64 that are not negative."""


class StateDependentNoise(nn.Module):
    """The standard normal matrices behind gSDE's noise, one for each environment.

    Raffin et al., 2022, https://arxiv.org/abs/2005.05719. Kept is the seed that the matrices are
    drawn from and not the matrices, so that a checkpoint can be loaded with another number of
    environments. Learned standard deviations scale them at the start of every rollout, so
    exploration follows what was learned while a matrix is kept.

    Args:
        sample_freq: Steps of each environment after which the matrices are drawn anew; -1 draws
            them at the start of every rollout (every `train_frequency` env steps) and keeps them
            in it.
        shape: Environments, features and action dimensions, `(N, F, A)`.

    Raises:
        ConfigError: For another `sample_freq` below 1.
    """

    seed: Tensor
    steps: Tensor

    def __init__(self, sample_freq: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        if sample_freq != -1 and sample_freq < 1:
            raise ConfigError(
                "expected sde_sample_freq to be at least 1, or -1 for the start of every rollout, "
                f"received {sample_freq}"
            )
        self.sample_freq = sample_freq
        self._shape = shape
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def begin_rollout(
        self, generator: np.random.Generator, num_steps: int, std: Array
    ) -> Callable[[Array, int], Array]:
        """Return the function from features `(N, F)` and the step's number to noise `(N, A)`.

        Args:
            generator: Where seeds come from.
            num_steps: Steps of the rollout, all of which are made.
            std: `(F, A)` standard deviation of the matrices' entries.
        """
        first, seed = int(self.steps), int(self.seed)
        anew = [step for step in range(num_steps) if self._is_due(first + step, step)]
        seeds = dict(zip(anew, generator.integers(_SEEDS, size=len(anew)).tolist(), strict=True))
        self.steps.add_(num_steps)
        self.seed.fill_(seeds[anew[-1]] if anew else seed)
        matrices = {} if 0 in seeds else {0: self._scaled(seed, std)}

        def noise(features: Array, step: int) -> Array:
            if step in seeds:
                matrices[0] = self._scaled(seeds[step], std)
            return np.matmul(features[:, None], matrices[0])[:, 0]

        return noise

    def _is_due(self, steps: int, step: int) -> bool:
        return step == 0 if self.sample_freq == -1 else steps % self.sample_freq == 0

    def _scaled(self, seed: int, std: Array) -> Array:
        normal = np.random.default_rng(seed).standard_normal(self._shape, dtype=np.float32)
        return np.multiply(normal, std, out=normal)

"""Statistics: explained variance, joining of moments, cheap sums of metrics between log rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def explained_variance(prediction: Tensor, target: Tensor) -> Tensor:
    """Return `1 - Var[target - prediction] / Var[target]`; 1 is perfect, 0 as good as a constant.

    Args:
        prediction: Any shape.
        target: Same shape.

    Returns:
        A scalar tensor; 0 for a constant target, which has no variance to explain (a NaN there
        would look like a diverged run).

    Raises:
        ValueError: The shapes differ.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"expected tensors of one shape, got {tuple(prediction.shape)}, {tuple(target.shape)}"
        )
    variance = target.var(correction=0)
    residual = (target - prediction).var(correction=0)
    # The inner `where` keeps the division finite, the outer one chooses; NaN inputs still come out
    # as NaN.
    divisor = torch.where(variance == 0, torch.ones_like(variance), variance)
    return torch.where(variance == 0, torch.zeros_like(variance), 1.0 - residual / divisor)


def batch_moments(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, population variance and count of all numbers in `values`, as scalar tensors."""
    var, mean = torch.var_mean(values, correction=0)
    return mean, var, torch.tensor(values.numel(), device=values.device)


def combine_moments(
    mean: Tensor, var: Tensor, count: Tensor, mean2: Tensor, var2: Tensor, count2: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Join mean and population variance of two samples.

    Chan, Golub and LeVeque, 1983, "Algorithms for computing the sample variance", equation 1.5.

    Args:
        mean: `(*shape)` mean of the first sample.
        var: `(*shape)` variance, divided by the count and not by count - 1.
        count: Scalar; 0 makes the result the other sample's.
        mean2: `(*shape)` mean of the second sample.
        var2: `(*shape)` variance of the second sample.
        count2: Scalar.

    Returns:
        Mean, variance and count of both together.
    """
    total = count + count2
    weight2 = (count2 / total.clamp(min=1)).to(mean.dtype)
    delta = mean2 - mean
    joint_mean = mean + delta * weight2
    joint_var = torch.lerp(var, var2, weight2) + delta.square() * weight2 * (1.0 - weight2)
    return joint_mean, joint_var, total


class StatisticsAccumulator:
    """Means of metrics between two log rows, gathered without waiting for the device.

    `add` takes the vector that an update function returns; it is added on its device and turned
    into numbers only by `flush`, so that a gradient step never synchronises.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], int] = {}
        self._scalars: dict[str, tuple[float, int]] = {}

    def add(self, names: tuple[str, ...], values: Tensor) -> None:
        """Add one value per name.

        Args:
            names: Metric tags.
            values: `(len(names),)` numbers, copied.

        Raises:
            ValueError: The numbers of names and values differ.
        """
        if values.shape != (len(names),):
            raise ValueError(f"expected {len(names)} values, got shape {tuple(values.shape)}")
        if names in self._sums:
            self._sums[names] += values.detach()
            self._counts[names] += 1
        else:
            # An inference tensor could not be added to outside of inference mode.
            with torch.inference_mode(False):
                self._sums[names] = values.detach().clone()
            self._counts[names] = 1

    def add_scalars(self, scalars: Mapping[str, float]) -> None:
        """Add host numbers by tag."""
        for name, value in scalars.items():
            _add_to(self._scalars, name, float(value), 1)

    def settle(self) -> dict[str, float]:
        """Turn what `add` gathered since the last call into numbers, and return their means.

        They remain part of the next `flush`. Waits for the device: call it once per training unit.
        """
        totals: dict[str, tuple[float, int]] = {}
        for names, sums in self._sums.items():
            for name, total in zip(names, sums.tolist(), strict=True):
                _add_to(totals, name, total, self._counts[names])
        for name, (total, count) in totals.items():
            _add_to(self._scalars, name, total, count)
        self._sums, self._counts = {}, {}
        return {name: total / count for name, (total, count) in totals.items()}

    def flush(self) -> dict[str, float]:
        """Return the mean of every tag since the last flush, and start over."""
        self.settle()
        means = {name: total / count for name, (total, count) in self._scalars.items()}
        self._scalars = {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return the unflushed sums as tensors and primitives."""
        groups = [
            {"names": list(names), "sum": sums.detach().cpu().clone(), "count": self._counts[names]}
            for names, sums in self._sums.items()
        ]
        return {"groups": groups, "scalars": {k: list(v) for k, v in self._scalars.items()}}

    def load_state_dict(self, state: Mapping[str, Any], device: str | torch.device = "cpu") -> None:
        """Replace the content by `state_dict()`'s.

        Args:
            state: Result of `state_dict`.
            device: Where the tensors given to `add` live.
        """
        groups = {tuple(group["names"]): group for group in state["groups"]}
        self._sums = {names: group["sum"].to(device).clone() for names, group in groups.items()}
        self._counts = {names: int(group["count"]) for names, group in groups.items()}
        self._scalars = {k: (float(v[0]), int(v[1])) for k, v in state["scalars"].items()}


def _add_to(totals: dict[str, tuple[float, int]], name: str, total: float, count: int) -> None:
    earlier_total, earlier_count = totals.get(name, (0.0, 0))
    totals[name] = (earlier_total + total, earlier_count + count)

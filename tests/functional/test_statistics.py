"""Explained variance, joining of moments, accumulation."""

import pytest
import torch

from lightning_rl.functional.statistics import (
    StatisticsAccumulator,
    combine_moments,
    explained_variance,
)


def test_explained_variance_literals():
    target = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert explained_variance(target, target) == 1.0
    assert explained_variance(target + 5.0, target) == 1.0
    assert explained_variance(torch.zeros(4), target) == 0.0
    assert explained_variance(-target, target) == -3.0


def test_explained_variance_of_a_constant_target_is_zero_and_nan_stays_visible():
    assert explained_variance(torch.randn(5), torch.ones(5)) == 0.0
    assert explained_variance(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 2.0])).isnan()
    with pytest.raises(ValueError, match="one shape"):
        explained_variance(torch.zeros(3), torch.zeros(3, 1))


def test_combined_moments_equal_those_of_the_joined_sample():
    data = torch.randn(50, 3) * 4 + 100
    parts = [data[:7], data[7:8], data[8:]]
    mean, var, count = torch.zeros(3), torch.ones(3), torch.tensor(0)
    for part in parts:
        moments = part.mean(0), part.var(0, correction=0), torch.tensor(len(part))
        mean, var, count = combine_moments(mean, var, count, *moments)
    assert count == 50
    torch.testing.assert_close(mean, data.mean(0))
    torch.testing.assert_close(var, data.var(0, correction=0))


def test_combining_with_nothing_changes_nothing():
    zero, one = torch.tensor(0), torch.ones(())
    mean, var, count = combine_moments(2 * one, 3 * one, torch.tensor(4), one, one, zero)
    assert (mean, var, count) == (2, 3, 4)
    mean, var, count = combine_moments(one, one, zero, one, one, zero)
    assert mean.isfinite()
    assert var.isfinite()


def test_accumulator_means_and_reset():
    statistics = StatisticsAccumulator()
    values = torch.tensor([1.0, 10.0])
    statistics.add(("loss", "kl"), values)
    values.fill_(3.0)  # the first call must have copied
    statistics.add(("loss", "kl"), values)
    statistics.add(("loss",), torch.tensor([8.0]))
    statistics.add_scalars({"lr": 1, "kl": 2.0})
    assert statistics.flush() == {"loss": 4.0, "kl": 5.0, "lr": 1.0}
    assert statistics.flush() == {}


def test_settled_values_are_told_once_and_stay_part_of_the_mean():
    statistics = StatisticsAccumulator()
    statistics.add(("loss", "kl"), torch.tensor([1.0, 10.0]))
    statistics.add(("loss", "kl"), torch.tensor([3.0, 20.0]))
    statistics.add(("loss",), torch.tensor([8.0]))
    assert statistics.settle() == {"loss": 4.0, "kl": 15.0}
    assert statistics.settle() == {}
    statistics.add(("loss",), torch.tensor([torch.nan]))
    assert str(statistics.settle()) == "{'loss': nan}"
    statistics.add(("kl",), torch.tensor([0.0]))
    assert statistics.flush()["kl"] == 10.0


def test_accumulator_takes_inference_tensors_anywhere():
    statistics = StatisticsAccumulator()
    with torch.inference_mode():
        statistics.add(("a",), torch.ones(1))
    statistics.add(("a",), torch.ones(1, requires_grad=True) * 3)
    assert statistics.flush() == {"a": 2.0}


def test_accumulator_state_round_trip(tmp_path):
    one, other = StatisticsAccumulator(), StatisticsAccumulator()
    one.add(("a", "b"), torch.tensor([1.0, 2.0]))
    one.add_scalars({"c": 3.0})
    torch.save(one.state_dict(), tmp_path / "state.pt")
    other.add_scalars({"stale": 1.0})
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for statistics in (one, other):
        statistics.add(("a", "b"), torch.tensor([3.0, 4.0]))
    assert one.flush() == other.flush() == {"a": 2.0, "b": 3.0, "c": 3.0}


def test_accumulator_refuses_a_wrong_number_of_values():
    with pytest.raises(ValueError, match="expected 1 values"):
        StatisticsAccumulator().add(("a",), torch.ones(2))

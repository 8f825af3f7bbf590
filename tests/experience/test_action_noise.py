"""Exploration noise: its moments, its memory, and that it can be put back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_rl.errors import ConfigError
from lightning_rl.experience.action_noise import ActionNoise
from lightning_rl.experience.random_streams import RandomStreams


def test_gaussian_noise_has_no_memory():
    noise = ActionNoise("gaussian", 0.3, 4, 2).draw(RandomStreams(0), 20_000)
    assert noise.shape == (20_000, 4, 2)
    assert noise.dtype == np.float32
    assert noise.mean() == pytest.approx(0.0, abs=0.01)
    assert noise.std() == pytest.approx(0.3, abs=0.01)
    assert np.corrcoef(noise[:-1, 0, 0], noise[1:, 0, 0])[0, 1] == pytest.approx(0.0, abs=0.03)


def test_an_ornstein_uhlenbeck_process_equals_a_slow_loop():
    generator = RandomStreams(1).numpy("exploration")
    normal = generator.standard_normal((50, 3, 2), dtype=np.float32)
    x, expected = np.zeros((3, 2)), []
    for step in normal:
        x = x + 0.15 * (0.0 - x) * 0.01 + 0.5 * np.sqrt(0.01) * step
        expected.append(x)
    noise = ActionNoise("ornstein_uhlenbeck", 0.5, 3, 2)
    assert np.allclose(noise.draw(RandomStreams(1), 50), expected, atol=1e-5)


def test_the_process_runs_on_from_draw_to_draw_and_from_a_checkpoint():
    noise = ActionNoise("ornstein_uhlenbeck", 0.5, 2, 1)
    streams, resumed = RandomStreams(2), RandomStreams(3)
    first = noise.draw(streams, 5).copy()
    assert torch.equal(streams.last_noise, torch.from_numpy(first[-1]))
    resumed.load_state_dict(streams.state_dict())
    then = noise.draw(streams, 5)
    assert np.array_equal(ActionNoise("ornstein_uhlenbeck", 0.5, 2, 1).draw(resumed, 5), then)
    assert abs(then[0] - first[-1]).max() < 0.5  # the increments have deviation 0.05


def test_with_another_number_of_environments_the_process_begins_anew():
    streams, fresh = RandomStreams(2), RandomStreams(3)
    ActionNoise("ornstein_uhlenbeck", 0.5, 2, 1).draw(streams, 5)
    fresh.load_state_dict({**streams.state_dict(), "last_noise": None})
    more = ActionNoise("ornstein_uhlenbeck", 0.5, 3, 1)
    assert np.array_equal(more.draw(streams, 5), more.draw(fresh, 5))


def test_its_stationary_deviation():
    noise = ActionNoise("ornstein_uhlenbeck", 0.5, 100, 1).draw(RandomStreams(3), 4_000)
    assert noise[2_000:].std() == pytest.approx(0.5 / (2 * 0.15) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("kind", "scale", "message"),
    [
        ("brownian", 0.1, "expected noise among gaussian, ornstein_uhlenbeck, received 'brownian'"),
        ("gaussian", -0.1, "expected exploration_noise to be at least 0.0, received -0.1"),
    ],
)
def test_other_noise_is_refused(kind: str, scale: float, message: str):
    with pytest.raises(ConfigError, match=message):
        ActionNoise(kind, scale, 1, 1)

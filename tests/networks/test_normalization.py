"""Running normalisation of observations and rewards."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers.utils import RunningMeanStd

from lightning_rl.networks.normalization import (
    RewardNormalizer,
    RunningNormalizer,
    differing_shapes,
)

VECTOR = spaces.Box(-np.inf, np.inf, (3,))
MIXED = spaces.Dict(
    {"arm.angle": VECTOR, "image": spaces.Box(0, 255, (2, 2, 1), np.uint8), "n": spaces.Discrete(3)}
)


def mixed_batch(size=4):
    return {
        "arm.angle": torch.randn(size, 3) * 5 + 2,
        "image": torch.randint(0, 256, (size, 2, 2, 1), dtype=torch.uint8),
        "n": torch.randint(0, 3, (size,)),
    }


def test_statistics_equal_those_of_all_data():
    normalizer = RunningNormalizer(VECTOR)
    data = torch.randn(60, 3) * torch.tensor([1.0, 10.0, 0.1]) + torch.tensor([0.0, 1000.0, -1.0])
    for part in (data[:1], data[1:13].reshape(4, 3, 3), data[13:]):
        normalizer.update(part)
    moments = normalizer.leaves["observation"]
    assert moments.count == 60
    torch.testing.assert_close(moments.mean, data.mean(0))
    torch.testing.assert_close(moments.var, data.var(0, correction=0), rtol=1e-4, atol=1e-5)
    result = normalizer(data)
    torch.testing.assert_close(result.mean(0), torch.zeros(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(result.std(0, correction=0), torch.ones(3), rtol=1e-3, atol=1e-3)


def test_an_untouched_normalizer_only_clips():
    normalizer = RunningNormalizer(VECTOR)
    assert normalizer(torch.tensor([[1.0, -50.0, 50.0]])).tolist() == [[1.0, -10.0, 10.0]]


def test_inference_function_equals_forward_and_follows_updates():
    normalizer = RunningNormalizer(VECTOR)
    act, x = normalizer.inference_function(), torch.randn(5, 3) * 100
    for _ in range(2):
        original = x.clone()
        assert torch.equal(act(x), normalizer(x))
        assert torch.equal(x, original)
        normalizer.update(x)
    mixed = RunningNormalizer(MIXED)
    observation = mixed_batch()
    assert torch.equal(mixed.inference_function()(observation)["n"], observation["n"])


def test_only_float_entries_of_a_dict_are_normalised():
    normalizer, observation = RunningNormalizer(MIXED), mixed_batch()
    normalizer.update(observation)
    result = normalizer(observation)
    assert list(result) == list(observation)
    torch.testing.assert_close(result["arm.angle"].mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    assert result["image"] is observation["image"]
    assert result["n"] is observation["n"]
    assert len(normalizer.state_dict()) == 3


def test_ranks_that_exchange_moments_agree():
    one, two, joint = (RunningNormalizer(VECTOR) for _ in range(3))
    left, right = torch.randn(7, 3), torch.randn(5, 3) + 4
    moments = [rank.batch_moments(x) for rank, x in ((one, left), (two, right))]
    for rank in (one, two):
        for batch in moments:
            rank.update_from_moments(batch)
    joint.update(torch.cat((left, right)))
    for name, buffer in joint.state_dict().items():
        assert torch.equal(one.state_dict()[name], two.state_dict()[name])
        torch.testing.assert_close(one.state_dict()[name], buffer)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_observations_are_named_and_absorbed_nowhere(bad):
    space = spaces.Dict({"a": VECTOR, "b": VECTOR})
    normalizer = RunningNormalizer(space)
    observation = {"a": torch.randn(4, 3), "b": torch.randn(4, 3)}
    observation["b"][1, 2] = bad
    with pytest.raises(ValueError, match=r"observation\['b'\], got 1 non-finite of 12"):
        normalizer.update(observation)
    assert all(moments.count == 0 for moments in normalizer.leaves.values())


def test_statistics_travel_in_the_state_dict():
    one, other = RunningNormalizer(VECTOR), RunningNormalizer(VECTOR)
    one.update(torch.randn(9, 3) * 3)
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 3)
    assert torch.equal(one(x), other(x))
    assert not list(one.parameters())


def test_normalizer_compiles_whole_with_buffers_as_inputs():
    normalizer, x = RunningNormalizer(VECTOR), torch.randn(4, 3)
    normalizer.update(torch.randn(20, 3) * 3)
    buffers = dict(normalizer.named_buffers())
    compiled = torch.compile(
        lambda b, x: torch.func.functional_call(normalizer, b, (x,)),
        fullgraph=True,
        backend="eager",
    )
    torch.testing.assert_close(compiled(buffers, x), normalizer(x))


def test_reward_statistics_equal_a_step_by_step_loop():
    generator = torch.Generator().manual_seed(0)
    reward = torch.randn(24, 2, generator=generator)
    episode_end = torch.rand(24, 2, generator=generator) > 0.8
    normalizer, running, seen = RewardNormalizer(2, gamma=0.9), np.zeros(2), RunningMeanStd()
    seen.count = 0
    for row, end in zip(reward.double().numpy(), episode_end.numpy(), strict=True):
        running = running * 0.9 + row
        seen.update(running)
        running = running * ~end
    for part in (slice(0, 1), slice(1, 10), slice(10, 24)):
        normalizer.update(reward[part], episode_end[part])
    torch.testing.assert_close(
        normalizer.discounted_return, torch.as_tensor(running, dtype=torch.float32)
    )
    assert normalizer.moments.var.item() == pytest.approx(float(seen.var), rel=1e-4)
    assert normalizer.moments.count == 48
    expected = reward / float(seen.var) ** 0.5
    torch.testing.assert_close(normalizer(reward), expected, rtol=1e-4, atol=1e-5)


def test_rewards_are_clipped_but_not_shifted():
    normalizer = RewardNormalizer(1, gamma=0.5, clip=2.0)
    assert normalizer(torch.tensor([0.0, 1.0, -7.0])).tolist() == [0.0, 1.0, -2.0]


def test_bad_rewards_change_nothing():
    normalizer = RewardNormalizer(2, gamma=0.9)
    reward, end = torch.ones(3, 2), torch.zeros(3, 2, dtype=torch.bool)
    normalizer.update(reward, end)
    before = {name: value.clone() for name, value in normalizer.state_dict().items()}
    reward[1, 1] = float("nan")
    with pytest.raises(ValueError, match="reward, got 1 non-finite of 6"):
        normalizer.update(reward, end)
    with pytest.raises(ValueError, match=r"\(T, 2\), got \(3, 1\)"):
        normalizer.update(torch.ones(3, 1), end)
    assert all(torch.equal(value, before[name]) for name, value in normalizer.state_dict().items())


def test_differing_shapes_name_what_does_not_fit_and_pass_over_the_number_of_environments():
    own = {"a": torch.ones(2), "b": torch.ones(()), "c.discounted_return": torch.ones(4)}
    found = {"a": torch.ones(3), "c.discounted_return": torch.ones(8), "d": torch.ones(())}
    assert differing_shapes(own, found) == {"a": ((2,), (3,)), "b": ((), None), "d": (None, ())}
    assert differing_shapes(own, own) == {}
    assert differing_shapes({}, {"discounted_return": torch.ones(1)}) == {
        "discounted_return": (None, (1,))
    }

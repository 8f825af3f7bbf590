"""Estimators against literal numbers, identities, and slow loops."""

import pytest
import torch

from lightning_rl.functional.returns import (
    gae,
    lambda_return,
    n_step_return,
    reverse_discounted_sum,
    td_target,
    vtrace,
)

GAMMA = 0.9


def rollout(num_steps=13, num_envs=3, seed=0):
    """Random rows whose next values agree with the following values inside episodes."""
    generator = torch.Generator().manual_seed(seed)

    def draw():
        return torch.randn(num_steps, num_envs, generator=generator, dtype=torch.float64)

    reward, value, final_value = draw(), draw(), draw()
    terminated, truncated = draw() > 1.0, draw() > 1.0
    episode_end = terminated | truncated
    next_value = torch.cat((value[1:], final_value[-1:]))
    next_value = torch.where(episode_end, final_value, next_value)
    return reward, value, next_value, terminated, episode_end


def column(*numbers):
    return torch.tensor(numbers).unsqueeze(1)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 8, 9, 128])
def test_scan_equals_the_loop(num_steps):
    values = torch.randn(num_steps, 4, dtype=torch.float64)
    discounts = torch.randn(num_steps, 4, dtype=torch.float64)
    total, expected = torch.zeros(4, dtype=torch.float64), []
    for t in reversed(range(num_steps)):
        total = values[t] + discounts[t] * total
        expected.insert(0, total)
    before = values.clone(), discounts.clone()
    torch.testing.assert_close(reverse_discounted_sum(values, discounts), torch.stack(expected))
    assert torch.equal(values, before[0])
    assert torch.equal(discounts, before[1])


def test_scan_literal():
    result = reverse_discounted_sum(column(1.0, 2.0, 3.0), column(0.5, 2.0, 100.0))
    assert result.squeeze(1).tolist() == [5.0, 8.0, 3.0]


def test_gae_literal():
    no, yes = False, True
    advantage = gae(
        reward=column(1.0, 1.0, 1.0),
        value=column(10.0, 20.0, 30.0),
        next_value=column(20.0, 40.0, 50.0),
        terminated=column(no, no, yes),
        episode_end=column(no, yes, yes),
        gamma=0.5,
        gae_lambda=0.5,
    )
    # Row 1 is truncated: it bootstraps from 40, and row 2 does not reach it. Row 2 is terminated.
    assert advantage.squeeze(1).tolist() == [1.25, 1.0, -29.0]


def test_gae_of_a_slow_loop():
    reward, value, next_value, terminated, episode_end = rollout()
    running, expected = torch.zeros(3, dtype=torch.float64), torch.empty_like(reward)
    for t in reversed(range(len(reward))):
        for n in range(3):
            bootstrap = 0.0 if terminated[t, n] else next_value[t, n]
            trace = 0.0 if episode_end[t, n] else running[n]
            delta = reward[t, n] + GAMMA * bootstrap - value[t, n]
            running[n] = delta + GAMMA * 0.8 * trace
            expected[t, n] = running[n]
    result = gae(reward, value, next_value, terminated, episode_end, GAMMA, 0.8)
    torch.testing.assert_close(result, expected)


def test_gae_with_lambda_one_is_the_discounted_return_minus_the_value():
    reward, value, next_value, terminated, episode_end = rollout()
    result = gae(reward, value, next_value, terminated, episode_end, GAMMA, 1.0)
    for n in range(3):
        for start in range(len(reward)):
            total, weight, t = 0.0, 1.0, start
            while True:
                total += weight * float(reward[t, n])
                weight *= GAMMA
                if episode_end[t, n] or t == len(reward) - 1:
                    break
                t += 1
            if not terminated[t, n]:
                total += weight * float(next_value[t, n])
            assert float(result[start, n] + value[start, n]) == pytest.approx(total)


def test_gae_with_lambda_zero_is_the_td_error():
    reward, value, next_value, terminated, episode_end = rollout()
    result = gae(reward, value, next_value, terminated, episode_end, GAMMA, 0.0)
    expected = td_target(reward, terminated, next_value, GAMMA) - value
    torch.testing.assert_close(result, expected)


def test_termination_and_truncation_differ_by_the_bootstrap():
    reward, value, next_value = column(1.0), column(0.0), column(10.0)
    yes, no = column(True), column(False)
    assert gae(reward, value, next_value, yes, yes, GAMMA, 0.95).item() == 1.0
    assert gae(reward, value, next_value, no, yes, GAMMA, 0.95).item() == pytest.approx(10.0)


def test_the_value_after_termination_is_never_read():
    nan = column(float("nan"))
    assert td_target(column(2.0), column(True), nan, GAMMA).item() == 2.0


@pytest.mark.parametrize("gae_lambda", [0.0, 0.3, 1.0])
def test_lambda_return_is_gae_plus_value(gae_lambda):
    reward, value, next_value, terminated, episode_end = rollout()
    returns = lambda_return(reward, next_value, terminated, episode_end, GAMMA, gae_lambda)
    advantage = gae(reward, value, next_value, terminated, episode_end, GAMMA, gae_lambda)
    torch.testing.assert_close(returns, advantage + value)


def test_n_step_return_equals_the_lambda_return_at_both_extremes():
    reward, _, next_value, terminated, episode_end = rollout()
    flags = terminated, episode_end
    for num_steps, gae_lambda in ((1, 0.0), (len(reward), 1.0), (1000, 1.0)):
        torch.testing.assert_close(
            n_step_return(reward, next_value, *flags, GAMMA, num_steps),
            lambda_return(reward, next_value, *flags, GAMMA, gae_lambda),
        )


def test_n_step_return_literal():
    no, yes = False, True
    result = n_step_return(
        reward=column(1.0, 2.0, 4.0, 8.0),
        next_value=column(100.0, 200.0, 300.0, 400.0),
        terminated=column(no, no, no, no),
        episode_end=column(no, no, yes, no),
        gamma=0.5,
        num_steps=2,
    )
    # 1 + 2/2 + 200/4; 2 + 4/2 + 300/4; cut by the truncation: 4 + 300/2; last row: 8 + 400/2.
    assert result.squeeze(1).tolist() == [52.0, 79.0, 154.0, 208.0]


def test_n_step_return_refuses_zero_steps():
    reward, _, next_value, terminated, episode_end = rollout()
    with pytest.raises(ValueError, match="num_steps >= 1"):
        n_step_return(reward, next_value, terminated, episode_end, GAMMA, 0)


@pytest.mark.parametrize("trace_lambda", [0.0, 0.7, 1.0])
def test_vtrace_on_policy_is_the_lambda_return(trace_lambda):
    reward, value, next_value, terminated, episode_end = rollout()
    one = torch.ones_like(reward)
    inputs = reward, value, next_value, terminated, episode_end, one, GAMMA
    target, advantage = vtrace(*inputs, trace_lambda=trace_lambda)
    expected = lambda_return(reward, next_value, terminated, episode_end, GAMMA, trace_lambda)
    torch.testing.assert_close(target, expected)
    if trace_lambda == 1.0:
        torch.testing.assert_close(advantage, expected - value)


def test_vtrace_clips_and_ignores_impossible_actions():
    reward, value, next_value, terminated, episode_end = rollout()
    flags = terminated, episode_end
    zero, many = torch.zeros_like(reward), torch.full_like(reward, 50.0)
    target, advantage = vtrace(reward, value, next_value, *flags, zero, GAMMA)
    torch.testing.assert_close(target, value)
    assert not advantage.any()
    clipped = vtrace(reward, value, next_value, *flags, many, GAMMA)
    on_policy = vtrace(reward, value, next_value, *flags, torch.ones_like(reward), GAMMA)
    torch.testing.assert_close(clipped, on_policy)


def test_vtrace_literal():
    target, advantage = vtrace(
        reward=column(1.0, 2.0),
        value=column(10.0, 20.0),
        next_value=column(20.0, 40.0),
        terminated=column(False, False),
        episode_end=column(False, False),
        ratio=column(0.5, 2.0),
        gamma=0.5,
    )
    # delta: 0.5 * (1 + 10 - 10) = 0.5 and 1 * (2 + 20 - 20) = 2; v0 = 10 + 0.5 + 0.5 * 0.5 * 2.
    assert target.squeeze(1).tolist() == [11.0, 22.0]
    assert advantage.squeeze(1).tolist() == [1.0, 2.0]


def test_shapes_are_checked():
    reward, value, next_value, terminated, episode_end = rollout()
    with pytest.raises(ValueError, match=r"value \(3,\)"):
        gae(reward, value[0], next_value, terminated, episode_end, GAMMA, 0.9)
    with pytest.raises(ValueError, match="one shape"):
        td_target(reward, terminated[:-1], next_value, GAMMA)
    with pytest.raises(ValueError, match="one shape"):
        reverse_discounted_sum(reward, reward[:1])


def test_gae_compiles_whole():
    inputs = rollout()
    compiled = torch.compile(gae, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs, GAMMA, 0.95), gae(*inputs, GAMMA, 0.95))

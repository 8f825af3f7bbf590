"""Return and advantage estimators as pure tensor functions: no networks, no environments.

Time index: row `t` holds `reward[t]`, the reward *caused by* the action taken in `observation[t]`,
and the flags *after* it. `value[t]` is the value of `observation[t]`; `next_value[t]` is the value
of the TRUE next observation, the final one of its episode included and never the first one of the
following episode. Hence a truncated episode bootstraps from its final observation, a terminated one
does not, and `episode_end = terminated | truncated` cuts every trace. A rollout's last row is cut
too: what follows it is known only through `next_value[-1]`.

Shapes are `(T, N)`, float32 for numbers and bool for flags, unless stated otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reverse_discounted_sum(values: Tensor, discounts: Tensor) -> Tensor:
    """Solve `x[t] = values[t] + discounts[t] * x[t + 1]` with `x[T] = 0` for all `t` at once.

    The pairs `(value, discount)` form an associative scan (Blelloch, 1990, "Prefix sums and their
    applications"): each doubling joins every row with the rows up to twice as far ahead, so log2(T)
    rounds of three operations replace a loop over T.

    Args:
        values: `(T, N)` terms.
        discounts: `(T, N)` weights of the next row; the last row's is not used.

    Returns:
        `(T, N)` sums.

    Raises:
        ValueError: The shapes differ.
    """
    _check_shapes(values=values, discounts=discounts)
    length, span = values.shape[0], 1
    while span < length:
        head = torch.addcmul(values[:-span], discounts[: length - span], values[span:])
        values = torch.cat((head, values[-span:]))
        # Only rows that still have a row 2 * span ahead are needed in the next round.
        needed = max(length - 2 * span, 0)
        discounts = discounts[:needed] * discounts[span : span + needed]
        span *= 2
    return values


def td_target(
    reward: Tensor, terminated: Tensor, next_value: Tensor, gamma: float | Tensor
) -> Tensor:
    """Return `r + gamma * (1 - terminated) * next_value` (Sutton and Barto, 2018, equation 6.2).

    Args:
        reward: `(T, N)` or any other shape, which the result has too.
        terminated: Same shape, bool.
        next_value: Same shape; ignored, NaN included, where `terminated`.
        gamma: Discount in [0, 1].

    Returns:
        The one-step target, same shape.

    Raises:
        ValueError: The shapes differ.
    """
    _check_shapes(reward=reward, terminated=terminated, next_value=next_value)
    return reward + gamma * next_value.masked_fill(terminated, 0.0)


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    episode_end: Tensor,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
) -> Tensor:
    """Generalised advantage estimation.

    Schulman et al., 2016, https://arxiv.org/abs/1506.02438, equation 16:
    `advantage[t] = delta[t] + gamma * gae_lambda * (1 - episode_end[t]) * advantage[t + 1]` with
    `delta[t] = reward[t] + gamma * (1 - terminated[t]) * next_value[t] - value[t]`.

    Args:
        reward: `(T, N)`.
        value: `(T, N)`.
        next_value: `(T, N)`, of the true next observation.
        terminated: `(T, N)` bool.
        episode_end: `(T, N)` bool, `terminated | truncated`.
        gamma: Discount in [0, 1].
        gae_lambda: 0 gives the one-step TD error, 1 the discounted return minus the value.

    Returns:
        `(T, N)` advantages.

    Raises:
        ValueError: The shapes differ.
    """
    _check_shapes(reward=reward, value=value, episode_end=episode_end)
    delta = td_target(reward, terminated, next_value, gamma) - value
    return reverse_discounted_sum(delta, _continues(episode_end, reward) * (gamma * gae_lambda))


def lambda_return(
    reward: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    episode_end: Tensor,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
) -> Tensor:
    """Return the lambda-return cut at episode ends and at the last row.

    Sutton and Barto, 2018, equation 12.18:
    `G[t] = reward[t] + gamma * ((1 - gae_lambda) * next_value[t] + gae_lambda * G[t + 1])`, where
    the bracket is `next_value[t]` at a cut and zero after termination. It equals `gae(...) + value`
    whenever `next_value[t] == value[t + 1]` inside episodes.

    Args:
        reward: `(T, N)`.
        next_value: `(T, N)`, of the true next observation.
        terminated: `(T, N)` bool.
        episode_end: `(T, N)` bool.
        gamma: Discount in [0, 1].
        gae_lambda: 0 gives `td_target`, 1 the discounted return with the bootstrap at the cut.

    Returns:
        `(T, N)` returns.

    Raises:
        ValueError: The shapes differ.
    """
    _check_shapes(reward=reward, next_value=next_value, episode_end=episode_end)
    trace = gae_lambda * _continues(_cut_last_row(episode_end), reward)
    bootstrap = gamma * (1.0 - trace) * next_value.masked_fill(terminated, 0.0)
    return reverse_discounted_sum(reward + bootstrap, gamma * trace)


def n_step_return(
    reward: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    episode_end: Tensor,
    gamma: float | Tensor,
    num_steps: int,
) -> Tensor:
    """Return the n-step return cut at episode ends and at the last row.

    Sutton and Barto, 2018, equation 7.1.

    Args:
        reward: `(T, N)`.
        next_value: `(T, N)`, of the true next observation.
        terminated: `(T, N)` bool.
        episode_end: `(T, N)` bool.
        gamma: Discount in [0, 1].
        num_steps: Rewards summed before the bootstrap, at least 1 (`td_target`); from T on, the
            whole rollout.

    Returns:
        `(T, N)` returns.

    Raises:
        ValueError: The shapes differ, or `num_steps < 1`.
    """
    _check_shapes(reward=reward, next_value=next_value, episode_end=episode_end)
    if num_steps < 1:
        raise ValueError(f"expected num_steps >= 1, got {num_steps}")
    one_step = td_target(reward, terminated, next_value, gamma)
    episode_goes_on = ~episode_end[:-1]
    result = one_step
    for _ in range(min(num_steps, reward.shape[0]) - 1):
        longer = reward[:-1] + gamma * result[1:]
        result = torch.cat((torch.where(episode_goes_on, longer, one_step[:-1]), one_step[-1:]))
    return result


def vtrace(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    episode_end: Tensor,
    ratio: Tensor,
    gamma: float | Tensor,
    trace_lambda: float = 1.0,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """V-trace targets and policy-gradient advantages.

    Espeholt et al., 2018, https://arxiv.org/abs/1802.01561, equation 1:
    `v[t] = value[t] + rho[t] * delta[t] + gamma * c[t] * (v[t + 1] - value[t + 1])`
    with `rho = min(clip_rho, ratio)` and `c = trace_lambda * min(clip_c, ratio)`. With `ratio == 1`
    the targets are the lambda-returns.

    Args:
        reward: `(T, N)`.
        value: `(T, N)`.
        next_value: `(T, N)`, of the true next observation.
        terminated: `(T, N)` bool.
        episode_end: `(T, N)` bool.
        ratio: `(T, N)` probability of the action under the learned policy over that under the
            acting one.
        gamma: Discount in [0, 1].
        trace_lambda: In [0, 1]; 0 gives one-step targets.
        clip_rho: Largest weight of a TD error; decides which policy's values are learnt.
        clip_c: Largest weight of a trace; decides the speed of learning only.

    Returns:
        `(T, N)` value targets and `(T, N)` advantages `rho * (reward + gamma * v[t + 1] - value)`.

    Raises:
        ValueError: The shapes differ.
    """
    _check_shapes(reward=reward, value=value, episode_end=episode_end, ratio=ratio)
    rho = ratio.clamp(max=clip_rho)
    delta = rho * (td_target(reward, terminated, next_value, gamma) - value)
    trace = gamma * trace_lambda * ratio.clamp(max=clip_c) * _continues(episode_end, reward)
    target = value + reverse_discounted_sum(delta, trace)
    following = torch.where(episode_end[:-1], next_value[:-1], target[1:])
    next_target = torch.cat((following, next_value[-1:]))
    advantage = rho * (td_target(reward, terminated, next_target, gamma) - value)
    return target, advantage


def _continues(episode_end: Tensor, like: Tensor) -> Tensor:
    """Return 1 where the episode goes on after the row, else 0, in the dtype of `like`."""
    return episode_end.logical_not().to(like.dtype)


def _cut_last_row(episode_end: Tensor) -> Tensor:
    """Return the flags with the last row set: only a bootstrap value tells what follows it."""
    return torch.cat((episode_end[:-1], torch.ones_like(episode_end[-1:])))


def _check_shapes(**tensors: Tensor) -> None:
    """Raise when shapes differ: a silent broadcast of `(T, N)` with `(N,)` trains nonsense."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1:
        listing = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"expected tensors of one shape, got {listing}")

"""Seeds of episodes: every episode of a run has its own, and no two episodes of a run share one."""

from __future__ import annotations

from typing import Literal

from lightning_rl.errors import ConfigError

SeedStream = Literal["train", "evaluation", "test", "scratch"]
_STREAMS: tuple[SeedStream, ...] = ("train", "evaluation", "test", "scratch")
_BITS = 29
_MASK = (1 << _BITS) - 1


def episode_seed(run_seed: int, stream: SeedStream, episode: int) -> int:
    """Return the seed of one episode, below 2**31.

    The two highest bits hold the stream, the other 29 a permutation of the episode number that is
    keyed by the run's seed. Hence seeds never repeat within a run, training never meets an episode
    of evaluation or test, and runs with different seeds meet different episodes.

    Args:
        run_seed: The run's seed.
        stream: What the episode is for.
        episode: Number of the episode within its stream, unique over ranks and rows, below 2**29.

    Raises:
        ConfigError: When `episode` is not in `[0, 2**29)`.
    """
    if not 0 <= episode <= _MASK:
        raise ConfigError(f"expected an episode number in [0, {_MASK}], received {episode}")
    key = run_seed
    mixed = episode
    # Each line is a bijection on 29 bits: an odd multiplier and an offset, a right xor-shift.
    for _ in range(3):
        key = (key * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        mixed = (mixed * ((key >> 17) | 1) + (key >> 34)) & _MASK
        mixed ^= mixed >> 14
    return _STREAMS.index(stream) << _BITS | mixed

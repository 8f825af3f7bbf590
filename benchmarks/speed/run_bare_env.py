"""Step the environments of a case with random actions; nothing learns."""

from __future__ import annotations

import argparse
from importlib.metadata import version

from benchmarks.speed.cases import Case
from benchmarks.speed.harness import Clock, Outcome, import_all, parser, run_case


def train(case: Case, options: argparse.Namespace) -> tuple[Outcome, Clock]:
    """Play the case's env steps, its environments in turn; see `harness.run_case`."""
    import_all("gymnasium")
    import gymnasium

    # Without gymnasium's checking wrapper, which training goes without, too.
    envs = [gymnasium.make(case.env_id, disable_env_checker=True) for _ in range(case.num_envs)]
    returns, sums = [], [0.0] * case.num_envs
    for index, env in enumerate(envs):
        env.action_space.seed(options.seed + index)
        env.reset(seed=options.seed + index)
    clock = Clock(case.warmup_env_steps)
    for env_steps in range(0, case.total_env_steps, case.num_envs):
        clock.before_step(env_steps)
        for index, env in enumerate(envs):
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            sums[index] += float(reward)
            if terminated or truncated:
                env.reset()
                returns.append(sums[index])
                sums[index] = 0.0
    clock.stop(case.total_env_steps)
    return Outcome("gymnasium", version("gymnasium"), 0, 0, returns), clock


def main() -> None:
    """Run from the command line."""
    run_case(parser().parse_args(), train)


if __name__ == "__main__":
    main()

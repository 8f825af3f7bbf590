"""Most of lightning_rl in under five minutes; the last line is `ALL CHECKS PASSED`."""

import sys
import tempfile
from pathlib import Path

import torch

from lightning_rl import DQN, PPO, evaluate_policy, export_policy, record_replay, run
from lightning_rl.callbacks import EpisodeReplays, EventCallback, VideoRecorder
from lightning_rl.errors import Interrupted
from lightning_rl.runs.catalog import find_runs, summarize


def train(agent, folder, *callbacks, resume=False):
    where = {"root": folder.parent, "experiment": "demo", "name": folder.name}
    options = {"callbacks": list(callbacks), "logger": False, "enable_progress_bar": False}
    return run(agent, run={**where, "log_level": "ERROR"}, trainer=options, resume=resume)


def stop(trainer, agent):
    agent.stop_requested = 2 if agent.iteration == 3 else 0  # as Ctrl-C does


def main(total_env_steps=60_000):
    failures, logs = [], Path(tempfile.mkdtemp(prefix="lightning-rl-demo-"))
    good = 195.0 * (total_env_steps >= 60_000)  # a smaller budget only shows that it runs

    def check(what, is_right):
        print(f"{'ok    ' if is_right else 'FAILED'}  {what}")
        failures.extend([] if is_right else [what])

    ppo = PPO({"id": "CartPole-v1", "num_envs": 8}, total_env_steps=total_env_steps, seed=1)
    result = train(ppo, logs / "ppo", EpisodeReplays(0.1), VideoRecorder(total_env_steps // 2))
    best = PPO.load_from_checkpoint(result.best_checkpoint)
    mean, _ = evaluate_policy(best, num_episodes=20)
    check(f"PPO on CartPole-v1: mean reward {mean:.0f}", result.success and mean >= good)
    lake = {"id": "FrozenLake-v1", "kwargs": {"is_slippery": False}}
    dqn = DQN(lake, total_env_steps=total_env_steps // 4, seed=1, epsilon_fraction=0.8)
    result, (mean, _) = train(dqn, logs / "dqn"), evaluate_policy(dqn, num_episodes=5)
    check(f"DQN on FrozenLake-v1: mean reward {mean:.1f}", result.success and mean >= good / 195)
    whole, stopped, resumed = (PPO(total_env_steps=1_024, seed=2) for _ in range(3))
    train(whole, logs / "whole")
    try:
        train(stopped, logs / "stopped", EventCallback(on_update_start=stop))
    except Interrupted:
        train(resumed, logs / "stopped", resume=True)
    pairs = zip(whole.parameters(), resumed.parameters(), strict=True)
    check("a stopped and resumed run equals one never stopped", all(torch.equal(*p) for p in pairs))
    played = [record_replay(f).difference is None for f in logs.glob("demo/ppo/replays/*.json")]
    check(f"{len(played)} stored episodes play again exactly", bool(played) and all(played))
    check("the policy was filmed", any(logs.glob("demo/ppo/videos/*.mp4")))
    check("the policy was exported", export_policy(best, logs / "p.pt2", "torch").path.exists())
    check("every run is finished", {summarize(r).status for r in find_runs(logs)} == {"finished"})
    print(f"FAILED: {'; '.join(failures)}" if failures else "ALL CHECKS PASSED")
    return len(failures)


if __name__ == "__main__":
    sys.exit(main())

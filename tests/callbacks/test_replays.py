"""Replay files: which episodes, what is in them, and that a stop changes nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lightning_rl.envs.probes  # noqa: F401  registers the probe environments
from lightning_rl import DQN, PPO, Trainer
from lightning_rl.callbacks import EpisodeReplays, EventCallback
from lightning_rl.callbacks.replays import is_sampled
from lightning_rl.errors import ConfigError, Interrupted
from lightning_rl.runs.recording import record_replay
from lightning_rl.storage.episode_file import read_replay
from lightning_rl.storage.sealed import load_sealed

QUIET = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
CARTPOLE = {"id": "CartPole-v1", "num_envs": 3}


def ppo(env: Any = CARTPOLE, total_env_steps: int = 768) -> PPO:
    small = {"num_steps": 64, "minibatch_size": 64, "update_epochs": 1, "hidden_sizes": (8,)}
    return PPO(env, total_env_steps=total_env_steps, seed=4, compile=False, **small)


def dqn(env: Any = CARTPOLE, total_env_steps: int = 768) -> DQN:
    small = {"learning_starts": 50, "batch_size": 8, "train_frequency": 6, "capacity": 500}
    return DQN(
        env,
        total_env_steps=total_env_steps,
        seed=4,
        compile=False,
        env_steps_per_iteration=96,
        **small,
    )


def fit(agent: Any, root: Path, *callbacks: Any, ckpt_path: str | None = None) -> Path:
    trainer = Trainer(
        run={"root": str(root), "experiment": "e", "name": "r"},
        callbacks=list(callbacks),
        eval_every_env_steps=0,
        **QUIET,
    )
    trainer.fit(agent, ckpt_path=ckpt_path)
    return root / "e" / "r" / "replays"


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_files_hold_each_episode_of_the_sample_and_play_again(tmp_path: Path) -> None:
    finished = []
    watch = EventCallback(on_episode_end=lambda trainer, agent, episode: finished.append(episode))
    folder = fit(ppo(), tmp_path, EpisodeReplays(sample_rate=0.5), watch)
    expected = {e.index: e for e in finished if is_sampled(e.seed, 0.5)}
    assert 0 < len(expected) < len(finished)
    assert {path.name for path in folder.iterdir()} == {f"episode={n}.json" for n in expected}
    for number, episode in expected.items():
        replay = read_replay(folder / f"episode={number}.json")
        assert (replay.seed, replay.length, replay.reward) == (
            episode.seed,
            episode.length,
            episode.reward,
        )
        assert (replay.env_index, replay.env_steps) == (episode.env_index, episode.env_steps)
        assert replay.env == {"id": "CartPole-v1", "num_envs": 3}
        assert record_replay(replay).difference is None


@pytest.mark.parametrize(
    "env",
    [
        {"id": "Pendulum-v1", "max_episode_steps": 20, "action": "rescale"},
        {
            "id": "FrozenLake-v1",
            "kwargs": {"is_slippery": True},
            "eval_kwargs": {"map_name": "8x8"},
        },
        {
            "id": "LightningRL/ObservationAction-v0",
            "kwargs": {"observation": "dict", "action": "multi_binary", "length": 3},
        },
    ],
)
def test_any_kind_of_action_plays_again(env: dict[str, Any], tmp_path: Path) -> None:
    folder = fit(ppo(env, 192), tmp_path, EpisodeReplays(sample_rate=1.0, observations=True))
    paths = list(folder.iterdir())
    assert len(paths) > 3
    for path in paths[:10]:
        assert record_replay(path).difference is None


def test_observations_are_those_the_policy_saw(tmp_path: Path) -> None:
    env = {"id": "LightningRL/Count-v0", "num_envs": 2}
    folder = fit(dqn(env, 96), tmp_path, EpisodeReplays(sample_rate=1.0, observations=True))
    replay = read_replay(next(folder.iterdir()))
    counts = np.ravel(replay.observations)
    assert counts.tolist() == list(range(replay.length + 1))
    assert replay.rewards == [float(n + 1) for n in range(replay.length)]


@pytest.mark.parametrize(("make", "stops"), [(ppo, (5, 9)), (dqn, (2,))])
def test_a_stopped_and_resumed_run_writes_the_same_files(
    make: Any, stops: tuple[int, ...], tmp_path: Path
) -> None:
    options = {"sample_rate": 0.7, "observations": True}
    whole = contents(fit(make(), tmp_path / "a", EpisodeReplays(**options)))

    def stopper(at: int) -> EventCallback:
        def stop(trainer: Any, agent: Any, episode: Any) -> None:
            if episode.index == at:
                agent.stop_requested = 15

        return EventCallback(on_episode_end=stop)

    for attempt, at in enumerate(stops):
        with pytest.raises(Interrupted):
            fit(
                make(),
                tmp_path / "b",
                EpisodeReplays(**options),
                stopper(at),
                ckpt_path="last" if attempt else None,
            )
    last = tmp_path / "b" / "e" / "r" / "checkpoints" / "last.ckpt"
    state = load_sealed(last)["callbacks"]["EpisodeReplays"]
    assert state["open"], "some episode is cut in the middle"
    stale = tmp_path / "b" / "e" / "r" / "replays" / "episode=999.json"
    stale.write_text("an episode that this run never played")
    folder = fit(make(), tmp_path / "b", EpisodeReplays(**options), ckpt_path="last")
    assert contents(folder) == whole


def test_watching_changes_no_training(tmp_path: Path) -> None:
    plain, watched = ppo(), ppo()
    fit(plain, tmp_path / "a")
    fit(watched, tmp_path / "b", EpisodeReplays(sample_rate=1.0, observations=True))
    for name, value in plain.state_dict().items():
        assert value.equal(watched.state_dict()[name]), name


def test_only_the_newest_files_are_kept(tmp_path: Path) -> None:
    agent = ppo()
    folder = fit(agent, tmp_path, EpisodeReplays(sample_rate=1.0, keep=4))
    numbers = sorted(int(path.stem.partition("=")[2]) for path in folder.iterdir())
    assert numbers == list(range(agent.episodes - 4, agent.episodes))


def test_a_folder_that_cannot_be_written_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def block(trainer: Any, agent: Any) -> None:
        (tmp_path / "e" / "r" / "replays").write_text("in the way")

    agent = ppo()
    with caplog.at_level(logging.WARNING):
        fit(agent, tmp_path, EventCallback(on_training_begins=block), EpisodeReplays(1.0))
    assert agent.env_steps == 768
    assert sum("Cannot write replays" in record.message for record in caplog.records) == 1


def test_the_sample_is_fixed_even_and_nested() -> None:
    seeds = range(1_000, 21_000)
    tenth = {seed for seed in seeds if is_sampled(seed, 0.1)}
    assert 0.09 < len(tenth) / len(seeds) < 0.11
    assert tenth <= {seed for seed in seeds if is_sampled(seed, 0.3)}
    assert not any(is_sampled(seed, 0.0) for seed in seeds)
    assert all(is_sampled(seed, 1.0) for seed in seeds)
    assert sorted(tenth)[:3] == [1019, 1028, 1033]  # on every machine


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sample_rate to be in \[0.0, 1.0\], received 2"):
        EpisodeReplays(sample_rate=2)
    with pytest.raises(ConfigError, match="keep"):
        EpisodeReplays(keep=0)

"""Components of the reward and the env's own scalars."""

from __future__ import annotations

from pathlib import Path

from lightning_rl import PPO, Trainer
from lightning_rl.callbacks.reward_components import RewardComponents
from lightning_rl.envs.config import EnvConfig
from lightning_rl.loggers import read_metrics
from tests.experience.test_collector import Reporting


def test_means_and_shares(make_episode):
    callback = RewardComponents()
    callback.on_episode_end(None, None, make_episode(2.0, reward_components={"a": 3, "b": -1}))
    callback.on_episode_end(None, None, make_episode(0.0, reward_components={"a": 3, "b": -3}))
    assert callback.metrics(None, None) == {
        "reward/a": 3.0,
        "reward/b": -2.0,
        "reward_share/a": 0.6,
        "reward_share/b": 0.4,
    }
    assert callback.metrics(None, None) == {}


def test_missing_component_counts_zero_and_all_zero_has_no_share(make_episode):
    callback = RewardComponents()
    callback.on_episode_end(None, None, make_episode(1.0, reward_components={"a": 1.0}))
    callback.on_episode_end(None, None, make_episode(2.0, reward_components={"b": 2.0}))
    row = callback.metrics(None, None)
    assert (row["reward/a"], row["reward/b"]) == (0.5, 1.0)
    callback.on_episode_end(None, None, make_episode(0.0, reward_components={"a": 0.0}))
    assert callback.metrics(None, None) == {"reward/a": 0.0, "reward_share/a": 0.0}


def test_env_log_is_averaged_and_slash_stripped():
    callback = RewardComponents()
    callback.on_env_log(None, None, {"/height": 1.0, "/terrain/level": 4.0})
    callback.on_env_log(None, None, {"/height": 2.0})
    assert callback.metrics(None, None) == {"env/height": 1.5, "env/terrain/level": 4.0}
    assert callback.metrics(None, None) == {}


def test_difference_is_said_once(make_episode, caplog):
    callback = RewardComponents()
    for _ in range(3):
        episode = make_episode(5.0, index=7, reward_components={"speed": 3.0, "cost": -1.0})
        callback.on_episode_end(None, None, episode)
    (record,) = caplog.records
    assert "episode 7 (speed, cost) add up to 2, its reward is 5" in record.getMessage()
    assert "difference of -3" in record.getMessage()


def test_rounding_is_no_difference(make_episode, caplog):
    components = {"a": 1000.02, "b": -999.0}
    RewardComponents().on_episode_end(None, None, make_episode(1.0, reward_components=components))
    assert not caplog.records


def test_episodes_without_components_log_nothing(make_episode):
    callback = RewardComponents()
    callback.on_episode_end(None, None, make_episode())
    assert callback.metrics(None, None) == {}


def test_resumed_equals_unstopped(make_episode):
    whole, first, second = RewardComponents(), RewardComponents(), RewardComponents()
    for callback in (whole, first):
        callback.on_episode_end(None, None, make_episode(0.1, reward_components={"a": 0.1}))
        callback.on_env_log(None, None, {"x": 0.1})
    second.load_state_dict(first.state_dict())
    for callback in (whole, second):
        callback.on_episode_end(None, None, make_episode(0.2, reward_components={"a": 0.2}))
        callback.on_env_log(None, None, {"x": 0.2})
    assert second.state_dict() == whole.state_dict()
    assert second.metrics(None, None) == whole.metrics(None, None)


def test_a_run_logs_the_environments_own_scalars_under_env(tmp_path):
    env = EnvConfig(factory=Reporting, kwargs={"min_length": 4, "max_length": 4}, num_envs=1)
    sizes = {"num_steps": 16, "minibatch_size": 16, "hidden_sizes": (4,)}
    agent = PPO(env, total_env_steps=32, seed=1, compile=False, **sizes)
    trainer = Trainer(
        run={"root": str(tmp_path)},
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        limit_val_batches=0,
        log_every_n_steps=1,
    )
    trainer.fit(agent)
    for row in read_metrics(Path(trainer.run_dir) / "metrics.csv"):
        assert {tag for tag in row if tag.startswith("env/")} == {"env/height"}
        assert row["reward/count"] == 10.0

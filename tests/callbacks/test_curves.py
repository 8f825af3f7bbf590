"""The picture of a run, and the curves behind it."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch

from lightning_rl.callbacks import curves
from lightning_rl.callbacks.curves import MAX_POINTS, Series, TrainingCurves, moving_average
from lightning_rl.errors import ConfigError

PNG = b"\x89PNG\r\n\x1a\n"


def feed(callback, make_episode, start=0, stop=200):
    for index in range(start, stop):
        env_steps = 10 * (index + 1)
        callback.on_episode_end(None, None, make_episode(float(index), 10, env_steps=env_steps))
        row = {"train/value_loss": 1.0 / (index + 1), "train/policy_loss": 0.1 - index / 500}
        row["train/learning_rate"] = 1e-3
        callback.on_metrics(None, None, row, env_steps)
        if index % 50 == 49:
            row = {"eval/mean_reward": float(index), "eval/std_reward": 2.0}
            callback.on_metrics(None, None, row, env_steps)


def test_series_keeps_every_entry_while_there_is_room():
    series = Series()
    for step in range(MAX_POINTS - 1):
        series.add(step, 2.0 * step)
    steps, values = series.points()
    assert series.stride == 1
    np.testing.assert_array_equal(steps, np.arange(MAX_POINTS - 1))
    np.testing.assert_array_equal(values, 2.0 * steps)


def test_series_is_bounded_and_keeps_the_mean():
    series, count = Series(), 50_000
    for step in range(count):
        series.add(step, float(step % 7))
    steps, values = series.points()
    assert series.stride == 32
    assert len(series) == count // 32 <= MAX_POINTS
    expected = np.arange(count // 32 * 32).reshape(-1, 32)
    np.testing.assert_allclose(steps, expected.mean(axis=1))
    np.testing.assert_allclose(values, (expected % 7).mean(axis=1))


@pytest.mark.parametrize("split", [1, 1999, 2000, 2001, 4001, 9999])
def test_series_resumed_equals_unstopped(split):
    stream = np.random.default_rng(0)
    entries = list(enumerate(stream.normal(size=10_000)))  # NumPy scalars, as envs give them
    whole, before, after = Series(), Series(), Series()
    for entry in entries:
        whole.add(*entry)
    for entry in entries[:split]:
        before.add(*entry)
    buffer = io.BytesIO()
    torch.save(before.state_dict(), buffer)
    buffer.seek(0)
    after.load_state_dict(torch.load(buffer, weights_only=True))
    for entry in entries[split:]:
        after.add(*entry)
    assert after.state_dict()["open"] == whole.state_dict()["open"]
    assert after.stride == whole.stride
    assert torch.equal(after.state_dict()["points"], whole.state_dict()["points"])


def test_moving_average_equals_a_slow_loop():
    values = np.random.default_rng(1).normal(size=57)
    for window in (1, 5, 100):
        expected = [values[max(0, i - window + 1) : i + 1].mean() for i in range(len(values))]
        np.testing.assert_allclose(moving_average(values, window), expected)


def test_picture_of_a_run(tmp_path, trainer, make_episode):
    callback = TrainingCurves()
    feed(callback, make_episode)
    trainer.run_dir = tmp_path
    callback.on_train_end(trainer, None)
    assert [path.name for path in tmp_path.iterdir()] == ["training_curves.png"]
    assert (tmp_path / "training_curves.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("entries", [0, 1])
def test_picture_of_almost_nothing(entries, tmp_path, make_episode):
    callback = TrainingCurves()
    feed(callback, make_episode, 0, entries)
    callback.draw(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)


def test_picture_of_a_failed_run_with_nan(tmp_path, trainer, make_episode):
    callback = TrainingCurves()
    feed(callback, make_episode, 0, 5)
    callback.on_metrics(None, None, {"train/value_loss": float("nan")}, 60)
    trainer.run_dir = tmp_path
    callback.on_exception(trainer, None, RuntimeError())
    assert (tmp_path / "training_curves.png").exists()


def test_resumed_draws_the_same_picture(tmp_path, make_episode):
    whole, before, after = TrainingCurves(), TrainingCurves(), TrainingCurves()
    feed(whole, make_episode)
    feed(before, make_episode, 0, 120)
    after.load_state_dict(before.state_dict())
    feed(after, make_episode, 120)
    whole.draw(tmp_path / "whole.png")
    after.draw(tmp_path / "after.png")
    assert (tmp_path / "whole.png").read_bytes() == (tmp_path / "after.png").read_bytes()


def figures_drawn(monkeypatch):
    """Return the list that every figure saved from now on is added to."""
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: (drawn.append(f), save(f, *a, **k)))
    return drawn


def test_the_legend_of_the_losses_covers_no_line(tmp_path, make_episode, monkeypatch):
    drawn = figures_drawn(monkeypatch)
    callback = TrainingCurves()
    feed(callback, make_episode)
    callback.draw(tmp_path / "curves.png")
    (losses,) = [a for a in drawn[0].axes if a.get_legend() and a.get_ylabel() == "policy loss"]
    bottom = losses.get_legend().get_window_extent().y0
    pair = [axis for axis in drawn[0].axes if axis.bbox.bounds == losses.bbox.bounds]
    points = [axis.transData.transform(line.get_xydata()) for axis in pair for line in axis.lines]
    assert [len(line) for line in points] == [200, 200]
    assert max(line[:, 1].max() for line in points) < bottom


def test_reward_components_have_two_panels_of_their_own(tmp_path, make_episode, monkeypatch):
    drawn = figures_drawn(monkeypatch)
    whole, before, after = TrainingCurves(), TrainingCurves(), TrainingCurves()
    for callback, start, stop in ((whole, 0, 60), (before, 0, 37)):
        feed(callback, make_episode, start, stop)
        feed_components(callback, start, stop)
    whole.draw(tmp_path / "whole.png")
    rows = drawn[0].axes
    titles = [axis.get_title() for axis in rows]
    (index,) = [i for i, title in enumerate(titles) if title == "Reward components"]
    sums, shares = rows[index], rows[titles.index("Shares of the reward")]
    assert [line.get_label() for line in sums.lines] == ["goal", "effort"]
    assert [line.get_label() for line in shares.lines] == ["goal"]
    assert len({line.get_color() for line in sums.lines}) == 2
    np.testing.assert_array_equal(sums.lines[1].get_ydata(), -0.5 * np.arange(60))
    assert (sums.get_ylabel(), shares.get_ylabel()) == ("sum per episode", "share, 0 to 1")
    assert (sums.get_xlabel(), shares.get_ylim()) == ("env steps", (0.0, 1.0))
    after.load_state_dict(before.state_dict())
    feed(after, make_episode, 37, 60)
    feed_components(after, 37, 60)
    after.draw(tmp_path / "after.png")
    assert (tmp_path / "after.png").read_bytes() == (tmp_path / "whole.png").read_bytes()


def feed_components(callback, start, stop):
    for index in range(start, stop):
        row = {"reward/goal": 1.0 * index, "reward/effort": -0.5 * index, "reward_share/goal": 0.6}
        callback.on_metrics(None, None, row, 10 * (index + 1))


def test_a_checkpoint_from_before_reward_components_were_drawn():
    state = TrainingCurves().state_dict()
    del state["components"]
    callback = TrainingCurves()
    feed_components(callback, 0, 5)
    callback.load_state_dict(state)
    assert callback.state_dict()["components"] == {}


def test_a_rewound_callback_forgets_what_came_later(make_episode):
    callback = TrainingCurves()
    before = callback.state_dict()
    callback.on_episode_end(None, None, make_episode(2.0, env_steps=5))
    callback.on_metrics(None, None, {"train/learning_rate": 0.1}, 5)
    assert callback.state_dict() != before
    callback.load_state_dict(before)
    assert callback.state_dict() == before


def test_drawn_after_evaluations_but_rarely(trainer, tmp_path, monkeypatch):
    now, drawn = [0.0], []
    monkeypatch.setattr(curves.time, "monotonic", lambda: now[0])
    callback = TrainingCurves(every_s=30)

    def draw(path):
        drawn.append(now[0])
        now[0] += 1.0

    monkeypatch.setattr(callback, "draw", draw)
    trainer.run_dir = tmp_path
    callback.on_training_begins(trainer, None)
    for second in range(0, 200, 10):
        now[0] = max(now[0], float(second))
        callback.on_validation_end(trainer, None)
    assert drawn == [30.0, 90.0, 150.0]  # a drawing of 1 s is paid for by 50 s without one


def test_not_drawn_without_run_directory_on_other_ranks_or_in_sanity_checks(
    trainer, tmp_path, monkeypatch
):
    callback = TrainingCurves(every_s=0)
    monkeypatch.setattr(callback, "draw", lambda path: pytest.fail("drawn"))
    callback.on_train_end(trainer, None)
    trainer.run_dir, trainer.is_global_zero = tmp_path, False
    callback.on_train_end(trainer, None)
    trainer.is_global_zero, trainer.sanity_checking = True, True
    callback.on_validation_end(trainer, None)


def test_picture_that_cannot_be_written_is_no_reason_to_fail(trainer, tmp_path, caplog):
    trainer.run_dir = tmp_path / "missing"
    TrainingCurves().on_train_end(trainer, None)
    assert "Could not draw training_curves.png" in caplog.text


def test_leaves_pyplot_to_the_user(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it raises
    TrainingCurves().draw(tmp_path / "curves.png")


@pytest.mark.parametrize("arguments", [{"every_s": -1}, {"window": 0}])
def test_arguments_out_of_range(arguments):
    with pytest.raises(ConfigError, match="expected"):
        TrainingCurves(**arguments)

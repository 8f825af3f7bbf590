"""The line in a terminal and the lines in a file."""

from __future__ import annotations

import io
import logging

import pytest
from lightning.pytorch import Trainer
from rich.console import Console
from rich.text import Text

from lightning_rl.callbacks import progress_bar
from lightning_rl.callbacks.progress_bar import ProgressBar


def console(terminal: bool, width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width)


def steps(bar, agent, count, by=100, statistics=None):
    for _ in range(count):
        agent.env_steps += by
        agent.episodes += 1
        bar.on_iteration_end(None, agent, statistics or {})


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets: seconds as the only item."""
    now = [0.0]
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now[0])
    return now


def test_file_gets_a_line_each_tenth(trainer, agent, make_episode, caplog, clock):
    caplog.set_level(logging.INFO)
    bar = ProgressBar(console(terminal=False))
    bar.on_training_begins(trainer, agent)
    bar.on_episode_end(trainer, agent, make_episode(12.5))
    for _ in range(100):
        clock[0] += 0.01
        steps(bar, agent, 1, by=10, statistics={"train/td_loss": 0.25, "train/epsilon": 0.5})
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 10
    assert lines[1] == ("20 %: 200/1,000, 1000 steps/s, return 12.5, loss 0.25, ε 0.50, ETA 0:01")
    assert bar._console.file.getvalue() == ""


def test_resumed_run_logs_only_the_tenths_left(trainer, agent, caplog):
    caplog.set_level(logging.INFO)
    agent.env_steps = 750
    bar = ProgressBar(console(terminal=False))
    bar.on_training_begins(trainer, agent)
    steps(bar, agent, 25, by=10)
    tenths = [record.getMessage().split(" ")[0] for record in caplog.records]
    assert tenths == ["80", "90", "100"]


def test_a_rollout_that_passes_the_budget_is_all_of_it(trainer, agent, caplog):
    caplog.set_level(logging.INFO)
    bar = ProgressBar(console(terminal=False))
    bar.on_training_begins(trainer, agent)
    steps(bar, agent, 1, by=2_560)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("100 %: 2,560/1,000, ")


def test_terminal_shows_one_line(trainer, agent, make_episode, clock):
    bar = ProgressBar(console(terminal=True, width=100))
    bar.on_training_begins(trainer, agent)
    bar.on_episode_end(trainer, agent, make_episode(100.0))
    clock[0] = 1.0
    steps(bar, agent, 5, statistics={"train/policy_loss": -0.0125})
    clock[0] = 2.0
    bar.on_train_end(trainer, agent)
    text = bar._console.file.getvalue()
    assert "500/1,000" in text
    assert "250 steps/s  return 100  loss -0.013  ETA 0:02" in text
    assert text.endswith("\x1b[?25h")  # the cursor is back


@pytest.mark.parametrize("width", [60, 40])
def test_narrow_terminal_shows_whole_words(width, trainer, agent, make_episode, clock):
    bar = ProgressBar(console(terminal=True, width=width))
    bar.on_training_begins(trainer, agent)
    bar.on_episode_end(trainer, agent, make_episode(100.0))
    clock[0] = 1.0
    steps(bar, agent, 1, 500, {"train/policy_loss": -0.0125, "train/epsilon": 0.5})
    bar._stop()
    line = Text.from_ansi(bar._console.file.getvalue().split("\r")[-1]).plain.splitlines()[0]
    assert "…" not in line
    assert line.endswith("ETA 0:01")
    assert "500/1,000" in line
    assert "500 steps/s" in line
    assert ("return 100" in line) == (width == 60)
    assert len(line) <= width - 2  # room for the terminal's `^C`


def test_refreshes_at_most_ten_times_a_second(trainer, agent, clock, monkeypatch):
    bar = ProgressBar(console(terminal=True))
    bar.on_training_begins(trainer, agent)
    drawn = []
    original = bar._refresh
    monkeypatch.setattr(bar, "_refresh", lambda *args: (drawn.append(1), original(*args)))
    for _ in range(1000):
        clock[0] += 0.001
        steps(bar, agent, 1, by=1)
    bar._stop()
    assert 9 <= len(drawn) <= 11


def test_slow_terminal_is_drawn_less_often(trainer, agent, clock):
    bar = ProgressBar(console(terminal=True))
    bar.on_training_begins(trainer, agent)
    update = bar._bar.update

    def slow_update(*args, **kwargs):
        clock[0] += 0.5
        update(*args, **kwargs)

    bar._bar.update = slow_update
    clock[0] = 10.0
    steps(bar, agent, 1)
    assert bar._next_refresh == pytest.approx(10.5 + 50)
    bar._stop()


@pytest.mark.parametrize("terminal", [True, False])
def test_disabled_is_silent(terminal, trainer, agent, caplog):
    caplog.set_level(logging.INFO)
    bar = ProgressBar(console(terminal))
    bar.disable()
    bar.on_training_begins(trainer, agent)
    steps(bar, agent, 10)
    bar.on_train_end(trainer, agent)
    assert bar._console.file.getvalue() == ""
    assert not caplog.records


def test_other_ranks_are_silent(trainer, agent):
    trainer.is_global_zero = False
    bar = ProgressBar(console(terminal=True))
    bar.setup(trainer, agent, "fit")
    bar.on_training_begins(trainer, agent)
    assert bar._bar is None


def test_exception_gives_the_terminal_and_the_log_back(trainer, agent, monkeypatch):
    monkeypatch.setattr(progress_bar.sys, "__stderr__", io.StringIO())
    handler = logging.StreamHandler(progress_bar.sys.__stderr__)
    logging.getLogger("test_progress_bar").addHandler(handler)
    bar = ProgressBar(console(terminal=True))
    bar.on_training_begins(trainer, agent)
    assert handler.stream is not progress_bar.sys.__stderr__
    bar.on_exception(trainer, agent, KeyboardInterrupt())
    assert handler.stream is progress_bar.sys.__stderr__
    assert bar._bar is None
    logging.getLogger("test_progress_bar").removeHandler(handler)


def test_episode_budget(trainer, agent, clock):
    agent.total_env_steps, agent.total_episodes = None, 20
    bar = ProgressBar(console(terminal=True, width=100))
    bar.on_training_begins(trainer, agent)
    clock[0] = 1.0
    steps(bar, agent, 5)
    clock[0] = 5.0
    bar.on_train_end(trainer, agent)
    text = bar._console.file.getvalue()
    assert "5/20" in text
    assert "100 steps/s  ETA 0:15" in text


def test_takes_the_place_of_lightnings_bar():
    bar = ProgressBar()
    trainer = Trainer(callbacks=[bar], logger=False, enable_checkpointing=False, accelerator="cpu")
    assert trainer.progress_bar_callback is bar


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_clock(seconds, text):
    assert progress_bar._clock(seconds) == text

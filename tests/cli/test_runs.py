"""`lightning-rl runs`: every action on small made-up runs, and that names stay text."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_rl.cli import runs as runs_module
from lightning_rl.cli import tail
from lightning_rl.cli.tables import cell, printable, seconds
from lightning_rl.loggers.sqlite import SQLiteLogger
from lightning_rl.runs.directory import RunDirectory
from lightning_rl.types import Episode

Run = Callable[..., Any]


def make_run(name: str, best: float = 1.0, lr: float = 1e-3, **record: Any) -> Path:
    run = Path("logs") / name
    run.mkdir(parents=True)
    content = {"status": "finished", "algorithm": "PPO", "environment": "CartPole-v1", "seed": 1}
    content |= {"env_steps": 100, "created": f"2026-01-0{len(name)}T00:00:00+00:00", **record}
    (run / "run.json").write_text(json.dumps(content))
    metrics = {"best": {"eval/mean_reward": best}, "final": {"train/epsilon": 0.25}}
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "config.yaml").write_text(
        f"run: {{name: {name.split('/')[-1]!r}}}\n"
        f"model: {{class_path: PPO, init_args: {{learning_rate: {lr}, gamma: 0.99}}}}\n"
    )
    (run / "metrics.csv").write_text(
        "step,episode,eval/mean_reward,train/policy_loss\n100,3,,0.5\n200,5,7.25,\n300,6,,0.25\n"
    )
    return run


@pytest.fixture
def three(run: Run) -> list[Path]:
    """Three runs in `logs`; the last one failed. Oldest first."""
    bad = {"status": "failed", "error": "TrainingFailed: NaN", "algorithm": "DQN"}
    return [make_run("e/a", 5.0), make_run("e/bb", 9.0, lr=2e-3), make_run("e/ccc", 1.0, **bad)]


def test_list_shows_all_newest_last_failed_ones_with_their_reason(
    three: list[Path], run: Run
) -> None:
    outcome = run("runs")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert [word for line in lines for word in ("e/a ", "e/bb ", "e/ccc ") if word in line] == [
        "e/a ",
        "e/bb ",
        "e/ccc ",
    ]
    assert "e/ccc: TrainingFailed: NaN" in lines[-1]
    assert run("runs", "list").out == outcome.out


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], ["a", "bb", "ccc"]),
        (["--status=failed,killed"], ["ccc"]),
        (["--algorithm=ppo"], ["a", "bb"]),
        (["--env=Taxi-v4"], []),
        (["--sort=best_reward"], ["ccc", "a", "bb"]),
        (["--sort=best_reward", "--limit=1"], ["bb"]),
        (["--older_than=1h"], ["a", "bb", "ccc"]),
        (["--older_than=9999w"], []),
    ],
)
def test_list_filters_and_sorts(
    options: list[str], names: list[str], three: list[Path], run: Run
) -> None:
    listed = json.loads(run("runs", "list", "--json", *options).out)
    assert [Path(item["directory"]).name for item in listed] == names


def test_show_tells_everything(three: list[Path], run: Run) -> None:
    outcome = run("runs", "show", "a")
    assert "CartPole-v1" in outcome.out
    assert "train/epsilon" in outcome.out
    shown = json.loads(run("runs", "show", str(three[2]), "--json").out)
    assert shown["run"]["error"] == "TrainingFailed: NaN"
    assert shown["summary"]["best_reward"] == 1.0
    assert shown["metrics"]["final"] == {"train/epsilon": 0.25}


def test_compare_shows_only_settings_that_differ(three: list[Path], run: Run) -> None:
    told = json.loads(run("runs", "compare", "a", "bb", "--metric=train/epsilon", "--json").out)
    assert told["settings"] == {"model.learning_rate": [0.001, 0.002]}
    assert told["outcomes"]["best_reward"] == [5.0, 9.0]
    assert told["outcomes"]["train/epsilon"] == [0.25, 0.25]
    text = run("runs", "compare", "a", "bb").out
    assert "model.learning_rate" in text
    assert "gamma" not in text


def test_query_reads_the_database(three: list[Path], run: Run) -> None:
    logger = SQLiteLogger(three[0] / "metrics.db")
    logger.log_metrics({"episode": 1, "train/td_loss": 0.5}, step=10)
    for index in range(3):
        logger.log_episode(Episode(index, 0, 7, float(index), 4, True, False, env_steps=20 + index))
    logger.finalize("success")
    rewards = ["runs", "query", "a", "--metric=episode/reward", "--json"]
    assert [row["value"] for row in json.loads(run(*rewards).out)] == [0.0, 1.0, 2.0]
    bounded = json.loads(run(*rewards, "--min_episode=1", "--max_episode=1").out)
    assert [row["env_steps"] for row in bounded] == [21]
    counted = run("runs", "query", "a", "--sql=SELECT count(*) AS n FROM metrics", "--json")
    assert json.loads(counted.out) == [{"n": 7}]
    shown = run("runs", "query", "a").out
    assert "td_loss" in shown
    assert re.search(r" 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d ", shown), "a time and no number of seconds"
    assert (
        run("runs", "query", "a", "--metric=episode/reward", "--min_episode=9").out == "no rows\n"
    )
    unknown = run("runs", "query", "a", "--metric=episode/rewards")
    assert unknown.code == 2
    assert "did you mean 'episode/reward'?" in unknown.message
    before = (three[0] / "metrics.db").read_bytes()
    recursive = "WITH RECURSIVE c(n) AS (SELECT 1 UNION SELECT n + 1 FROM c WHERE n < 4)"
    assert "4" in run("runs", "query", "a", f"--sql={recursive} SELECT max(n) FROM c").out
    writing = ("DELETE FROM metrics", "ATTACH 'new.db' AS n", "CREATE TABLE t(x)", "VACUUM")
    for sql in (*writing, "PRAGMA journal_mode = DELETE", "SELECT load_extension('x')", "SELEC 1"):
        assert run("runs", "query", "a", f"--sql={sql}").code == 2, sql
    assert not Path("new.db").exists()
    assert (three[0] / "metrics.db").read_bytes() == before
    assert "has no metrics.db" in run("runs", "query", "bb").message
    (three[1] / "metrics.db").write_text("no database at all" * 100)
    assert run("runs", "query", "bb").code == 2


@pytest.fixture
def database(three: list[Path]) -> Path:
    """`metrics.db` of the run `a`: episodes 0, 1 and 2, and a row of losses."""
    logger = SQLiteLogger(three[0] / "metrics.db")
    for index in range(3):
        logger.log_episode(Episode(index, 0, 7, float(index), 4, True, False, env_steps=20 + index))
    logger.log_metrics({"episode": 3, "train/loss": 0.5}, step=30)
    logger.finalize("success")
    return three[0] / "metrics.db"


def test_a_query_whose_columns_share_a_name_loses_none(database: Path, run: Run) -> None:
    sql = "--sql=SELECT a.value, b.value, 3 AS value_2 FROM metrics a JOIN metrics b LIMIT 1"
    rows = json.loads(run("runs", "query", "a", sql, "--json").out)
    assert [list(row) for row in rows] == [["value", "value_2", "value_2_2"]]
    assert rows[0]["value_2_2"] == 3
    shown = run("runs", "query", "a", sql)
    assert shown.code == 0
    assert shown.out.split()[:3] == ["value", "value_2", "value_2_2"]


def test_a_query_says_what_it_leaves_out(
    database: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "QUERY_LIMIT", 2)
    by_sql = "--sql=SELECT value FROM metrics"
    assert "only the last 2 of 7 rows are shown; --limit N" in run("runs", "query", "a").out
    assert "only the first 2 rows are shown; --limit N" in run("runs", "query", "a", by_sql).out
    assert "are shown" not in run("runs", "query", "a", "--limit=7").out
    for more in ([], [by_sql]):
        assert len(json.loads(run("runs", "query", "a", *more, "--json").out)) == 7
        assert len(json.loads(run("runs", "query", "a", *more, "--json", "--limit=3").out)) == 3


def test_the_first_episode_has_number_0(database: Path, run: Run) -> None:
    rewards = ["runs", "query", "a", "--metric=episode/reward", "--json"]
    assert [row["episode"] for row in json.loads(run(*rewards, "--max_episode=0").out)] == [0]
    assert len(json.loads(run(*rewards, "--min_episode=0").out)) == 3


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--source=episodes"], "did you mean 'episode'?"),
        (["--agent_id=agent_1"], "expected --agent_id among agent_0, received 'agent_1'"),
        (["--metric=train/loss", "--metric=x"], "expected --metric once, got train/loss and x"),
        (["--max_episode=-1"], "--max_episode: expected a whole number, got '-1'"),
    ],
)
def test_a_mistaken_query_is_not_answered(
    tokens: list[str], message: str, database: Path, run: Run
) -> None:
    outcome = run("runs", "query", "a", *tokens)
    assert outcome.code == 2
    assert message in outcome.message


def test_runs_of_one_name_are_told_apart(three: list[Path], run: Run) -> None:
    make_run("other/a", 2.0)
    words = run("runs", "compare", "logs/e/a", "logs/other/a").out.split()
    assert words.count("logs/e/a") == words.count("logs/other/a") == 2  # of both tables


def test_prune_removes_named_runs_only_where_the_options_fit(three: list[Path], run: Run) -> None:
    names = ["a", "ccc", "logs/e/ccc"]  # one of them twice
    outcome = run("runs", "prune", *names, "--status=failed", "--yes")
    assert outcome.code == 0
    assert "kept, since it is not what the options ask for: logs/e/a" in outcome.out
    assert outcome.out.endswith("removed 1 runs\n")
    assert [path.exists() for path in three] == [True, True, False]


def test_prune_asks_keeps_what_runs_and_removes_the_rest(
    three: list[Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert "add --yes" in run("runs", "prune", "--status=failed").message
    assert run("runs", "prune").code == 2
    assert all(path.exists() for path in three)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    outcome = run("runs", "prune", "--status=failed")
    assert outcome.out.endswith("[y/N] nothing was removed\n")
    with RunDirectory.claim(three[0], resume=True):
        outcome = run("runs", "prune", "--older_than=1d", "--yes")
    assert "kept, since it is running: logs/e/a" in outcome.out
    assert "removed 2 runs" in outcome.out
    assert [path.exists() for path in three] == [True, False, False]
    assert "nothing to remove" in run("runs", "prune", "--status=failed", "--yes").out


def test_tail_shows_the_last_rows(three: list[Path], run: Run) -> None:
    lines = run("runs", "tail", "a", "--lines=2").out.splitlines()
    assert lines[0].split() == ["env", "steps", "episodes", "eval", "reward", "policy", "loss"]
    assert lines[1].split() == ["200", "5", "7.25", "-"]
    assert lines[2].split() == ["300", "6", "-", "0.25"]
    assert lines[3] == "logs/e/a: finished"
    rows = [json.loads(line) for line in run("runs", "tail", "a", "--json").out.splitlines()]
    assert rows[1] == {"step": 200, "episode": 5, "eval/mean_reward": 7.25}


def test_tail_follows_until_the_run_is_at_its_end(
    three: list[Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    directory, looks = three[0], []
    record = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps({**record, "status": "running"}))

    def live(seconds: float) -> None:
        looks.append(seconds)
        with (directory / "metrics.csv").open("a") as file:
            file.write(f"{400 + len(looks)},9,,\n" + "500,1")  # the second row is half written
        text = (directory / "metrics.csv").read_text()
        (directory / "metrics.csv").write_text(text[: text.rfind("500,1")])
        if len(looks) == 3:
            (directory / "run.json").write_text(json.dumps(record))

    monkeypatch.setattr(tail.time, "sleep", live)
    with RunDirectory.claim(directory, resume=True):
        assert tail.follow(directory, lines=1) == 0
    steps = [line.split()[0] for line in capfd.readouterr().out.splitlines()]
    assert steps == ["env", "300", "401", "402", "403", "logs/e/a:"]

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    (directory / "run.json").write_text(json.dumps({**record, "status": "running"}))
    monkeypatch.setattr(tail.time, "sleep", interrupt)
    with RunDirectory.claim(directory, resume=True):
        assert tail.follow(directory, lines=1) == 130


def test_a_row_that_is_half_written_waits(three: list[Path]) -> None:
    file = three[0] / "metrics.csv"
    file.write_text("step,episode\n1,2\n3,4")
    assert tail.read_rows(file) == [{"step": 1, "episode": 2}]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["lst"], "unknown action 'lst'; did you mean 'list'?"),
        (["list", "--yes"], "--yes is an option of runs prune, not of runs list"),
        (["list", "--status=dead"], "among running, finished"),
        (["list", "--sort=colour"], "expected --sort among"),
        (["list", "--limit=-1"], "--limit: expected a whole number above 0"),
        (["list", "--older_than=soon"], "--older_than: expected a time such as 12h"),
        (["list", "logs", "x"], "expected one folder, got 2"),
        (["compare", "a", "bb", "--metric=train/epsilo"], "did you mean 'train/epsilon'?"),
        (["list", "elsewhere"], "no such folder: elsewhere"),
        (["show"], "expected one run"),
        (["show", "x"], "no run 'x'"),
        (["compare", "a"], "expected at least two runs"),
        (["--sttus=failed"], "unknown option --sttus; did you mean 'status'?"),
    ],
)
def test_mistakes_are_one_line(
    tokens: list[str], message: str, three: list[Path], run: Run
) -> None:
    outcome = run("runs", *tokens)
    assert outcome.code == 2
    assert message in outcome.message


def test_hostile_names_and_texts_stay_text(three: list[Path], run: Run) -> None:
    """Terminal escapes, rich markup, right-to-left marks and names that are not UTF-8."""
    evil = "\x1b[31m\x07[bold red]x[/]\u202egpj"
    make_run("e/evil\x1b[2J", error=evil, status="failed", environment=evil, description=evil)
    (Path("logs/e") / "not-utf8-\udcff").mkdir()
    (Path("logs/e") / "not-utf8-\udcff" / "run.json").write_text('{"status": "finished"}')
    with sqlite3.connect(three[0] / "metrics.db") as connection:
        connection.execute('CREATE TABLE metrics ("\x1b[31m" TEXT)')
        connection.execute("INSERT INTO metrics VALUES (?)", (evil,))
    connection.close()
    for tokens in (
        ["list"],
        ["list", "--json"],
        ["show", "logs/e/evil\x1b[2J"],
        ["show", "logs/e/evil\x1b[2J", "--json"],
        ["compare", "a", "logs/e/evil\x1b[2J"],
        ["query", "a", "--sql=SELECT * FROM metrics"],
        ["tail", "logs/e/evil\x1b[2J"],
    ):
        outcome = run("runs", *tokens)
        assert outcome.code == 0, (tokens, outcome.err)
        for character in "\x1b\x07\u202e":
            assert character not in outcome.out or "--json" in tokens, tokens
        assert "\x1b" not in outcome.out
    assert "[bold red]x[/]" in run("runs", "list").out


def test_how_values_are_shown() -> None:
    values = (None, float("nan"), True, 12_345, 1234.5, 0.00012345, 0.0, [], [1, "a"], "", "x")
    shown = ["-", "-", "true", "12,345", "1,234.50", "0.000123", "0.00", "-", "1, a", "-", "x"]
    assert [cell(value) for value in values] == shown
    assert printable("a\x1b[0m\nb\u202eé") == r"a\x1b[0m\nb\u202eé"
    assert (seconds(3_725.4), seconds(None), seconds(float("inf"))) == ("1:02:05", "-", "-")

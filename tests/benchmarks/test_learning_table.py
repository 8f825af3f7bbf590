"""The table, the document and the pictures of the learning benchmark."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from benchmarks.learning.gates import GATES, Gate
from benchmarks.learning.pictures import draw
from benchmarks.learning.table import load, missed, render, result_path, update_document
from tests.benchmarks.stored import GATE, result, store

ROOT = Path(__file__).parents[2]


def test_the_table_lists_every_seed_and_says_what_is_missed(tmp_path: Path) -> None:
    store(tmp_path, "ppo/cartpole", [500.0, 490.0, 480.0, 470.0, 460.0])
    store(tmp_path, "dqn/cartpole", [500.0, 474.0, 474.0, 460.0, 450.0])
    text = render(tmp_path)
    summary = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()}
    assert "| mean ≥ 475 | **480.0** |" in summary["ppo/cartpole"]
    assert "| 480.0 | yes |" in summary["ppo/cartpole"]
    assert "| **471.6** |" in summary["dqn/cartpole"]
    assert "| **no** |" in summary["dqn/cartpole"]
    assert "| open: 0 of 3 seeds |" in summary["ppo/half_cheetah"]
    machine = (
        "- Abacus, one thread, Linux; torch 2.13.0; package of commit 0123456 (sha256 fedcba98)"
    )
    assert text.splitlines().count(machine) == 1
    assert "| 4 | 470.0 ± 1.0 | 460.0 ± 2.0 | 700 | 1,024 | 12 s |" in text
    assert "ppo/cartpole" not in missed(tmp_path)
    assert set(missed(tmp_path)) == {gate.config for gate in GATES} - {"ppo/cartpole"}


def test_one_seed_has_a_score_and_no_interval(tmp_path: Path) -> None:
    store(tmp_path, "ppo/acrobot", [-74.0])
    (line,) = [line for line in render(tmp_path).splitlines() if line.startswith("| ppo/acrobot")]
    assert "| mean ≥ −85 | **−74.0** | - | −74.0 | open: 1 of 5 seeds |" in line


def test_results_beyond_the_gates_seeds_do_not_count(tmp_path: Path) -> None:
    store(tmp_path, "ppo/half_cheetah", [1.0, 2.0, 3.0, 4.0, 5.0])
    (gate,) = [gate for gate in GATES if gate.config == "ppo/half_cheetah"]
    assert [stored["seed"] for stored in load(gate, tmp_path)] == [1, 2, 3]


def test_only_the_table_of_the_document_is_replaced(tmp_path: Path) -> None:
    document = tmp_path / "results.md"
    document.write_text("Before.\n<!-- results: begin -->\nold\n<!-- results: end -->\nAfter.\n")
    update_document(document, tmp_path)
    text = document.read_text()
    assert text.startswith("Before.\n<!-- results: begin -->\n")
    assert text.endswith("<!-- results: end -->\nAfter.\n")
    assert "old" not in text
    assert text.count("| configuration |") == 1
    update_document(document, tmp_path)
    assert document.read_text() == text


def test_the_document_names_hours_and_how_others_measure(tmp_path: Path) -> None:
    store(tmp_path, "ppo/acrobot", [-74.0, -75.0])
    text = render(tmp_path)
    assert "2 runs, 0.01 hours of training on one thread." in text
    assert "(images/learning_scores.png)" in text
    assert "learning_curves.png" not in text, "no stored result has its evaluations"
    assert text.count("- [rl-baselines3-zoo](https://github.com/DLR-RM/rl-baselines3-zoo/") == 1
    assert "one trained run per environment" in text


def test_pictures_of_the_stored_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("ppo/toy", "dqn/toy", "dqn/tuned")
    gates = [dataclasses.replace(GATE, config=name, seeds=2) for name in names]
    for gate, factor in zip(gates, (1.0, 2.0, 3.0), strict=True):
        for seed in (1, 2):
            stored = result(factor * seed, seed, gate.config)
            stored["evaluations"] = [[500, factor], [1_000, factor * seed * 3]]
            result_path(gate.config, seed, tmp_path).write_text(json.dumps(stored))
    drawn: dict[str, Figure] = {}

    def remember(figure: Figure, path: Path) -> None:
        drawn[path.name] = figure

    monkeypatch.setattr("benchmarks.learning.pictures.save_small", remember)
    paths = draw(gates, tmp_path, tmp_path / "images")
    assert [path.name for path in paths] == ["learning_curves.png", "learning_scores.png"]
    (axis,) = drawn["learning_curves.png"].axes
    assert axis.get_title() == "CartPole-v1"
    lines = {line.get_label(): line.get_xydata().tolist() for line in axis.get_lines()}
    assert lines["ppo"] == [[500.0, 1.0], [1_000.0, 4.5]]
    assert lines["dqn"] == [[500.0, 2.0], [1_000.0, 9.0]]
    (axis,) = drawn["learning_scores.png"].axes
    marks = {line.get_label(): line.get_xdata().tolist() for line in axis.get_lines()}
    assert (marks["ppo"], marks["dqn"], marks["dqn/tuned"]) == ([1.5], [3.0], [4.5])
    assert draw(gates, tmp_path / "none") == []


def test_the_document_holds_the_stored_results() -> None:
    assert render() in (ROOT / "docs/results.md").read_text()


def test_a_gate_of_our_own_and_of_an_exact_value(tmp_path: Path) -> None:
    gate = Gate("tabular/toy", "CliffWalking-v1", -13, 1_000, measure="exact", seeds=2)
    for seed, value in enumerate([-13.0, -13.0002], 1):
        stored = result(-99.0, seed, gate.config)
        stored["best"]["exact_value"] = stored["last"]["exact_value"] = value
        result_path(gate.config, seed, tmp_path).write_text(json.dumps(stored))
    (line,) = [
        line for line in render(tmp_path, [gate]).splitlines() if line.startswith("| tabular/toy")
    ]
    assert "| exact mean ≥ −13 | **−13.000** |" in line
    assert line.endswith("| **no** | none found; the gate is our own | 0.01 |")
    assert "| 2 | -99.0 ± 1.0 (exact −13.000) |".replace("-", "−") in render(tmp_path, [gate])
    assert missed(tmp_path, [gate]) == ["tabular/toy"]


def test_a_rival_must_be_beaten_beyond_chance(tmp_path: Path) -> None:
    gates = [
        dataclasses.replace(GATE, config="dqn/toy", threshold=0),
        dataclasses.replace(GATE, config="rainbow/toy", threshold=0, rival="dqn/toy"),
    ]
    store(tmp_path, "dqn/toy", [10.0, 11.0, 12.0, 13.0, 14.0])
    assert missed(tmp_path, gates) == ["rainbow/toy"], "has not run"
    assert "ahead" not in render(tmp_path, gates)
    store(tmp_path, "rainbow/toy", [12.0, 13.0, 11.0, 14.0, 13.0])
    assert missed(tmp_path, gates) == ["rainbow/toy"], "ahead, but maybe by chance"
    store(tmp_path, "rainbow/toy", [20.0, 20.0, 20.0, 20.0, 20.0])
    assert missed(tmp_path, gates) == []
    # 20 less the interval of the rival's own interquartile mean
    expected = "IQM of rainbow/toy less that of dqn/toy: 6.3 to 9.7 (95 % interval)."
    assert expected in render(tmp_path, gates)

"""The pictures, read back from the figures: lines, bands, labels, legends, colours."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_rl.errors import ConfigError
from lightning_rl.runs import plots
from lightning_rl.runs.plots import (
    COLOURS,
    Curve,
    aligned,
    draw_results,
    interquartile_means_figure,
    learning_curves,
    performance_profiles,
    scaled_tables,
    shares_above,
    short_number,
)
from lightning_rl.runs.results import ExecutionResult
from lightning_rl.runs.study import CellResult

STEPS = np.array([1_000.0, 2_000.0, 3_000.0])
CURVES = {
    "CartPole-v1": {
        "PPO": [
            Curve(STEPS, np.array([10.0, 20.0, 30.0])),
            Curve(STEPS, np.array([20.0, 40.0, 50.0])),
        ],
        "DQN": [Curve(STEPS, np.array([9.0, 9.0, 9.0]))],
    },
    "Acrobot-v1": {"PPO": [Curve(STEPS, np.array([-500.0, -100.0, -90.0]))]},
}
SCORES = {
    "CartPole-v1": {"PPO": [100.0, 500.0, 300.0], "DQN": [100.0, 100.0]},
    "Acrobot-v1": {"PPO": [-80.0, -90.0], "DQN": [-100.0, -100.0, -100.0]},
}


def panel(figure: Figure, title: str) -> Axes:
    (axis,) = [axis for axis in figure.axes if axis.get_title() == title]
    return axis


def line(axis: Axes, label: str) -> Line2D:
    (found,) = [line for line in axis.get_lines() if line.get_label() == label]
    return found


def legend(figure: Figure) -> tuple[list[str], str]:
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()], found.get_title().get_text()


def test_learning_curves_show_the_iqm_with_its_interval() -> None:
    figure = learning_curves(CURVES)
    axis = panel(figure, "CartPole-v1")
    assert axis.get_xlabel() == "env steps"
    assert axis.get_ylabel() == "undiscounted return of an evaluation"
    assert line(axis, "PPO").get_xydata().tolist() == [[1e3, 15.0], [2e3, 30.0], [3e3, 40.0]]
    assert line(axis, "DQN").get_ydata().tolist() == [9.0, 9.0, 9.0]
    # Two runs: the interval reaches from one to the other. One run: no interval.
    (band,) = axis.collections
    edges = {tuple(point) for point in band.get_paths()[0].vertices.tolist()}
    assert {(1e3, 10.0), (1e3, 20.0), (3e3, 30.0), (3e3, 50.0)} <= edges
    assert to_hex(band.get_facecolor()[0]).upper() == COLOURS[0]
    assert panel(figure, "Acrobot-v1").collections[:] == []
    assert legend(figure) == (["PPO", "DQN"], "IQM over seeds, 95 % bootstrap interval")


def test_an_algorithm_looks_the_same_in_all_panels_and_like_no_other() -> None:
    names = [f"A{number}" for number in range(12)]
    curves = {"x": dict.fromkeys(names, CURVES["Acrobot-v1"]["PPO"])}
    curves["y"] = {"A7": curves["x"]["A7"]}
    figure = learning_curves(curves)
    looks = {
        name: (found.get_color(), found.get_linestyle(), found.get_marker())
        for name in names
        for found in [line(panel(figure, "x"), name)]
    }
    assert len(set(looks.values())) == len(names)
    again = line(panel(figure, "y"), "A7")
    assert (again.get_color(), again.get_linestyle(), again.get_marker()) == looks["A7"]


def test_colours_are_told_apart_without_red_or_green() -> None:
    # Viénot, Brettel and Mollon (1999): what is left of RGB in protanopia and deuteranopia.
    protan = np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]])
    deutan = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])
    for view in (np.eye(3), protan, deutan):
        seen = [view @ np.array(to_rgb(colour)) ** 2.2 for colour in COLOURS]
        distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
        assert min(distances) > 0.1


def test_means_have_a_panel_per_environment_and_one_of_all() -> None:
    figure = interquartile_means_figure(SCORES)
    assert [axis.get_title() for axis in figure.axes] == [
        "CartPole-v1", "Acrobot-v1", "all environments",
    ]  # fmt: skip
    axis = panel(figure, "CartPole-v1")
    assert axis.get_xlabel() == "undiscounted return"
    assert [text.get_text() for text in axis.get_yticklabels()] == ["PPO", "DQN"]
    assert line(axis, "PPO").get_xydata().tolist() == [[300.0, 0.0]]
    assert line(axis, "DQN").get_xydata().tolist() == [[100.0, 1.0]]
    bars = [found.get_xdata() for found in axis.get_lines() if found.get_linewidth() == 6]
    low, high = bars[0]
    assert 100.0 <= low < 300.0 < high <= 500.0
    assert list(bars[1]) == [100.0, 100.0]
    assert axis.get_ylim()[0] > axis.get_ylim()[1], "the first algorithm stands on top"
    # All: PPO keeps two runs of each, (0, 1) and (1, 0.5) scaled; the middle two are 0.5 and 1.
    everything = panel(figure, "all environments")
    assert line(everything, "PPO").get_xdata().tolist() == [0.75]
    assert line(everything, "DQN").get_xdata().tolist() == [0.0]
    assert everything.get_xlabel() == "scaled return (0 lowest run, 1 highest)"
    assert legend(figure)[0] == ["PPO", "DQN"]


def test_one_environment_has_no_panel_of_all() -> None:
    figure = interquartile_means_figure({"CartPole-v1": SCORES["CartPole-v1"]})
    assert [axis.get_title() for axis in figure.axes] == ["CartPole-v1"]


def test_performance_profile() -> None:
    figure = performance_profiles(SCORES)
    (axis,) = figure.axes
    assert axis.get_title() == "2 environments, 2 runs of each"
    assert "scaled return τ" in axis.get_xlabel()
    assert axis.get_ylabel() == "share of runs with return ≥ τ"
    ppo = dict(line(axis, "PPO").get_xydata().round(4).tolist())
    assert (ppo[0.0], ppo[0.01], ppo[0.5], ppo[0.51], ppo[1.0]) == (1.0, 0.75, 0.75, 0.5, 0.5)
    dqn = dict(line(axis, "DQN").get_xydata().round(4).tolist())
    assert (dqn[0.0], dqn[0.01]) == (1.0, 0.0)
    assert len(axis.collections) == 2
    assert legend(figure) == (["PPO", "DQN"], "share, 95 % bootstrap interval")


def test_shares_of_a_table() -> None:
    table = np.array([[0.0, 0.5], [0.5, 1.0]])
    assert shares_above(table, np.array([0.0, 0.2, 0.5, 0.7, 1.0])).tolist() == [
        1.0, 0.75, 0.75, 0.25, 0.25,
    ]  # fmt: skip


def test_scaling() -> None:
    tables = scaled_tables({**SCORES, "Flat-v0": {"PPO": [3.0, 3.0], "DQN": [3.0, 3.0]}})
    assert tables["PPO"].tolist() == [[0.0, 1.0, 1.0], [1.0, 0.5, 1.0]]
    assert tables["DQN"].tolist() == [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    assert list(scaled_tables({"a": {"PPO": [1.0], "DQN": [2.0]}, "b": {"DQN": [1.0]}})) == ["DQN"]


def test_curves_with_other_steps_are_compared_where_both_are() -> None:
    first = Curve(np.array([0.0, 100.0]), np.array([0.0, 100.0]))
    second = Curve(np.array([50.0, 200.0]), np.array([0.0, 150.0]))
    steps, values = aligned([first, second])
    assert (steps[0], steps[-1]) == (50.0, 100.0)
    assert values[:, 0].tolist() == [50.0, 0.0]
    assert values[:, -1].tolist() == [100.0, 50.0]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (500, "500"), (2_500, "2.5 k"), (1_500_000, "1.5 M")]
)
def test_numbers_on_an_axis(value: float, text: str) -> None:
    assert short_number(value) == text


def cell(folder: Path, algorithm: str, seed: int, success: bool = True) -> CellResult:
    place = folder / f"{algorithm}{seed}"
    place.mkdir(parents=True)
    rows = [{"env_steps": s, "eval/mean_reward": s * seed} for s in (100, 200)]
    (place / "metrics.json").write_text(json.dumps({"evaluations": rows}))
    execution = ExecutionResult([1.0 * seed, 3.0 * seed], [5, 5])
    return CellResult(
        "E-v0", algorithm, seed, success=success, execution=execution, directory=str(place)
    )


def test_the_pictures_of_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [cell(tmp_path, "A", 1), cell(tmp_path, "A", 2), cell(tmp_path, "B", 3, False)]
    drawn: dict[str, Figure] = {}
    save = plots.save

    def remember(figure: Figure, path: Path) -> None:
        drawn[path.name] = figure
        save(figure, path)

    monkeypatch.setattr(plots, "save", remember)
    paths = draw_results(tmp_path / "out", results)
    assert [path.name for path in paths] == list(drawn)
    assert set(drawn) == {"learning_curves.png", "iqm.png", "performance_profiles.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    curve = line(panel(drawn["learning_curves.png"], "E-v0"), "A")
    assert curve.get_xydata().tolist() == [[100.0, 150.0], [200.0, 300.0]]
    assert line(panel(drawn["iqm.png"], "E-v0"), "A").get_xdata().tolist() == [3.0]
    assert legend(drawn["iqm.png"])[0] == ["A"], "a failed cell is not drawn"


def test_nothing_to_draw_and_nowhere_to_write(tmp_path: Path) -> None:
    assert draw_results(tmp_path, [CellResult("E-v0", "A", 1, error_message="x")]) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        draw_results(tmp_path / "file", [cell(tmp_path, "A", 1)])

"""The pictures of `docs/results.md`: sample efficiency and scores, from the stored results."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.learning.gates import Gate
from benchmarks.learning.table import CURVES_PICTURE, SCORES_PICTURE, Result, load, scores
from lightning_rl.runs.plots import Curve, interquartile_means_figure, learning_curves

IMAGES = Path(__file__).parents[2] / "docs" / "images"


def draw(gates: Iterable[Gate], results: Path, images: Path = IMAGES) -> list[Path]:
    """Draw what the stored results allow, one panel per environment; return the files.

    Args:
        gates: The configurations.
        results: Folder of the results.
        images: Where to.
    """
    curves: dict[str, dict[str, list[Curve]]] = {}
    returns: dict[str, dict[str, list[float]]] = {}
    for gate in gates:
        found = load(gate, results)
        if not found:
            continue
        panel = returns.setdefault(gate.env, {})
        algorithm = gate.config.split("/")[0]
        name = gate.config if algorithm in panel else algorithm  # one look in all panels
        panel[name] = scores(gate, found)
        rows = [curve(result) for result in found if result.get("evaluations")]
        if rows:
            curves.setdefault(gate.env, {})[name] = rows
    paths = []
    if curves:
        save_small(learning_curves(curves), images / CURVES_PICTURE)
        paths.append(images / CURVES_PICTURE)
    if returns:
        save_small(interquartile_means_figure(returns), images / SCORES_PICTURE)
        paths.append(images / SCORES_PICTURE)
    return paths


def save_small(figure: Figure, path: Path) -> None:
    """Save a picture in fewer dots and colours: it is committed again and again."""
    drawn = io.BytesIO()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(drawn, format="png", dpi=85)
    picture = Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


def curve(result: Result) -> Curve:
    """Return the evaluations during one training."""
    steps, returns = np.array(result["evaluations"], dtype=float).T
    return Curve(steps, returns)

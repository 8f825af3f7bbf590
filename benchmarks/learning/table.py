"""The table of `docs/results.md`, from the stored results; trains nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.learning.gates import GATES, SOURCES, Gate, Reference
from benchmarks.page import replace_part
from lightning_rl.runs.statistics import difference_interval, interquartile_mean, interval

RESULTS = Path(__file__).parent / "results"
DOCUMENT = Path(__file__).parents[2] / "docs" / "results.md"
CURVES_PICTURE, SCORES_PICTURE = "learning_curves.png", "learning_scores.png"

Result = dict[str, Any]
Found = list[tuple[Gate, list[Result]]]
Lead = tuple[Gate, tuple[float, float]]
"""A gate with a rival, and the 95 % interval of the difference of their interquartile means."""


def load(gate: Gate, folder: Path = RESULTS) -> list[Result]:
    """Return the stored results of a gate's seeds, in their order."""
    paths = [result_path(gate.config, seed, folder) for seed in range(1, gate.seeds + 1)]
    return [json.loads(path.read_text()) for path in paths if path.is_file()]


def result_path(config: str, seed: int, folder: Path = RESULTS) -> Path:
    """Return where the result of one run is stored."""
    return folder / f"{config.replace('/', '_')}_{seed}.json"


def scores(gate: Gate, results: list[Result], checkpoint: str = "best") -> list[float]:
    """Return what the gate judges of each seed's `best` or `last` checkpoint."""
    return [result[checkpoint][gate.score_key] for result in results]


def render(folder: Path = RESULTS, gates: Sequence[Gate] = GATES) -> str:
    """Return the summary table and one table of seeds per gate, as Markdown."""
    found = [(gate, load(gate, folder)) for gate in gates]
    leads = _leads(found)
    unmet = _unmet(found, leads)
    lines = [
        "| configuration | environment | env steps allowed | gate | score | 95 % interval | IQM "
        "| met | published | hours |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_summary(gate, results, gate.config not in unmet) for gate, results in found),
        *_duels(leads),
    ]
    everything = [result for _, results in found for result in results]
    lines += ["", f"{len(everything)} runs, {_hours(everything)} hours of training on one thread."]
    lines += ["", *_sources(gates), "", *_machines(everything), *_pictures(everything)]
    for gate, results in found:
        if results:
            lines += ["", *_seeds(gate, results)]
    return "\n".join(lines) + "\n"


def missed(folder: Path = RESULTS, gates: Sequence[Gate] = GATES) -> list[str]:
    """Return the configurations whose gate is not met, or not yet."""
    found = [(gate, load(gate, folder)) for gate in gates]
    return _unmet(found, _leads(found))


def regressions(earlier: Path, folder: Path = RESULTS, gates: Sequence[Gate] = GATES) -> list[str]:
    """Return one line for each configuration that is worse than in an earlier set of results.

    Worse means that the 95 % interval of the difference of the interquartile means over seeds lies
    below zero.

    Args:
        earlier: Folder of the earlier results, such as those of another checkout.
        folder: Folder of today's.
        gates: The configurations.
    """
    lines = []
    for gate in gates:
        now, before = (scores(gate, load(gate, place)) for place in (folder, earlier))
        if not now or not before:
            continue
        low, high = difference_interval(now, before)
        if high < 0:
            lines.append(f"{gate.config}: {_number(low, 2)} to {_number(high, 2)}")
    return lines


def update_document(document: Path = DOCUMENT, folder: Path = RESULTS) -> None:
    """Replace what stands between the two markers of the document."""
    replace_part(document, "results", render(folder))


def _leads(found: Found) -> list[Lead]:
    """Return by how much each gate with a rival is ahead of it, where both have run."""
    best = {gate.config: scores(gate, results) for gate, results in found}
    pairs = [(gate, best[gate.config], best[gate.rival]) for gate, _ in found if gate.rival]
    return [(gate, difference_interval(own, other)) for gate, own, other in pairs if own and other]


def _unmet(found: Found, leads: list[Lead]) -> list[str]:
    ahead = {gate.config for gate, (low, _) in leads if low > 0}
    return [
        gate.config
        for gate, results in found
        if not gate.is_met(scores(gate, results)) or (gate.rival and gate.config not in ahead)
    ]


def _duels(leads: list[Lead]) -> list[str]:
    lines = []
    for gate, bounds in leads:
        lead = " to ".join(_number(bound) for bound in bounds)
        lines += ["", f"IQM of {gate.config} less that of {gate.rival}: {lead} (95 % interval)."]
    return lines


def _summary(gate: Gate, results: list[Result], is_met: bool) -> str:
    best = scores(gate, results)
    digits = 1 if gate.measure == "test" else 3
    score = bounds = middle = "-"
    if best:
        score, middle = (
            f"**{_number(gate.score(best), digits)}**",
            _number(interquartile_mean(best), digits),
        )
    if len(best) > 1:
        bounds = " to ".join(_number(bound, digits) for bound in interval(best, gate.score))
    met = "yes" if is_met else "**no**"
    if len(best) < gate.seeds:
        met = f"open: {len(best)} of {gate.seeds} seeds"
    exact = "exact " if gate.measure == "exact" else ""
    threshold = f"{exact}{gate.statistic} ≥ {_threshold(gate.threshold)}"
    cells = (
        gate.config, gate.env, f"{gate.env_steps:,}", threshold, score, bounds, middle, met,
        _published(gate.reference), _hours(results) if results else "-",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _published(reference: Reference | None) -> str:
    if reference is None:
        return "none found; the gate is our own"
    steps = f", {reference.env_steps:,} env steps" if reference.env_steps else ""
    digits = 3 if reference.source == "P" else 1  # those numbers are exact
    return (
        f"{_number(reference.score, digits)} ± {_number(reference.deviation, digits)} "
        f"({SOURCES[reference.source].name}: {reference.env}{steps})"
    )


def _hours(results: list[Result]) -> str:
    return f"{sum(result['training_s'] for result in results) / 3_600:.2f}"


def _sources(gates: Sequence[Gate]) -> list[str]:
    """Return one line for each source of published numbers: who, and how they measure."""
    named = [gate.reference.source for gate in gates if gate.reference]
    chosen = [SOURCES[key] for key in dict.fromkeys(named)]
    return [f"- [{source.name}]({source.url}): {source.protocol}." for source in chosen]


def _pictures(results: list[Result]) -> list[str]:
    """Return the pictures that `pictures.draw` makes of these results."""
    lines = []
    if results:
        lines += ["", f"![Scores over seeds with 95 % intervals](images/{SCORES_PICTURE})"]
    if any(result.get("evaluations") for result in results):
        lines += ["", f"![Evaluations during training](images/{CURVES_PICTURE})"]
    return lines


def _machines(results: list[Result]) -> list[str]:
    """Return one line for each combination of machine and software that results come from."""
    lines = []
    for result in results:
        versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
        commit, package = result["git_commit"] or "none", result["package_sha256"]
        lines.append(
            f"- {result['cpu']}, one thread, {result['system']}; {versions}; "
            f"package of commit {commit[:7]} (sha256 {package[:8]})"
        )
    return list(dict.fromkeys(lines))


def _seeds(gate: Gate, results: list[Result]) -> list[str]:
    return [
        f"### {gate.config}",
        "",
        f"`lightning-rl fit --config {gate.config} --seed_everything SEED`",
        "",
        "| seed | best.ckpt | last.ckpt | best at env step | env steps | training |",
        "|---|---|---|---|---|---|",
        *(_seed(result) for result in results),
    ]


def _seed(result: Result) -> str:
    best, last = (_return(result[name]) for name in ("best", "last"))
    at = f"{result['best']['env_steps']:,}"
    seconds = f"{result['training_s']:,.0f} s"
    return f"| {result['seed']} | {best} | {last} | {at} | {result['env_steps']:,} | {seconds} |"


def _return(score: dict[str, float]) -> str:
    """Return the tested mean ± deviation over episodes, and the exact value where there is one."""
    tested = f"{_number(score['mean_reward'])} ± {_number(score['std_reward'])}"
    exact = score.get("exact_value")
    return tested if exact is None else f"{tested} (exact {_number(exact, 3)})"


def _number(value: float, digits: int = 1) -> str:
    return f"{value:,.{digits}f}".replace("-", "−")


def _threshold(value: float) -> str:
    return f"{value:,.12g}".replace("-", "−")

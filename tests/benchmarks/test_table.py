"""The tables that are made of measured runs."""

from __future__ import annotations

from typing import Any

from benchmarks.speed.table import render

MACHINE = {"processor": "Abacus", "cores": 2, "system": "Linux", "python": "3.11.7"}


def run(name: str, case: str, **changes: Any) -> dict[str, Any]:
    """Return a run as `benchmarks.speed.run` saves it."""
    row = {
        "name": name,
        "case": case,
        "version": "1.0",
        "steps": 100_352,
        "steps_per_s": 1_000.0,
        "total_s": 100.0,
        "wall_s": 110.0,
        "gradient_steps": 1_568,
        "parameters": 9_155,
        "mean_return_last_100": 200.0,
        "peak_rss_mb": 300.0,
        "noise": [],
    }
    return {**row, **changes}


def cells(text: str, name: str) -> list[str]:
    """Return the cells of a library's row."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def document(*runs: dict[str, Any]) -> str:
    """Return the tables of some runs."""
    return render({"date": "today", "commit": "abc", "machine": MACHINE, "runs": list(runs)})


def test_rates_are_medians_and_ratios_are_to_the_fastest_peer() -> None:
    text = document(
        *[run("sb3", "ppo_cartpole", steps_per_s=rate) for rate in (900.0, 1_000.0, 5_000.0)],
        run("sbx", "ppo_cartpole", steps_per_s=2_000.0),
        run("lightning_rl", "ppo_cartpole", steps_per_s=8_000.0),
    )
    assert cells(text, "sb3")[2:6] == ["**1,000**", "900-5,000", "0.50", "1,004"]
    assert cells(text, "lightning_rl")[4] == "4.00"
    order = [text.index(f"| {name} |") for name in ("lightning_rl", "sbx", "sb3")]
    assert order == sorted(order)


def test_unequal_work_is_shown_beside_the_described() -> None:
    text = document(run("sbx", "dqn_cartpole", gradient_steps=2_900, parameters=10_802))
    assert cells(text, "sbx")[6:8] == ["2,900", "10,802 (described: 10,934)"]


def test_our_own_cases_are_compared_to_float32() -> None:
    text = document(
        run("lightning_rl", "sac_wide", steps_per_s=10.0),
        run("lightning_rl-bf16", "sac_wide", steps_per_s=25.0),
    )
    assert cells(text, "lightning_rl-bf16")[4] == "2.50"
    assert "| × lightning_rl |" in text
    assert "fastest peer" not in text


def test_process_times_are_compared_to_sb3() -> None:
    text = document(
        run("sb3", "process_start", wall_s=20.0),
        run("lightning_rl-defaults", "process_start", wall_s=9.0),
    )
    assert cells(text, "lightning_rl-defaults")[2:5] == ["**9.0**", "9.0-9.0", "0.45"]


def test_noisy_and_failed_runs_are_told() -> None:
    text = document(
        run("sb3", "ppo_cartpole", noise=["other cores 90% busy"]),
        run("sb3", "ppo_cartpole"),
        {"name": "sbx", "case": "ppo_cartpole", "error": "no jax"},
    )
    assert cells(text, "sb3")[-1] == "2 (1 not quiet)"
    assert "sbx failed: no jax" in text

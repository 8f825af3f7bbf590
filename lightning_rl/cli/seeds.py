"""`fit --run.seeds N`: one run per seed, as a study with one environment and one model."""

from __future__ import annotations

from datetime import datetime

from lightning_rl.cli.arguments import Request, last_value
from lightning_rl.cli.shared import outliving_the_reader
from lightning_rl.cli.study import run_plan, workers_asked
from lightning_rl.cli.study_file import Plan
from lightning_rl.errors import ConfigError
from lightning_rl.runs.directory import RunConfig, RunDirectory
from lightning_rl.runs.results import ExecutionConfig
from lightning_rl.runs.study import Cell, check_unchanged

_OWN = ("run.seeds", "run.root", "run.experiment", "run.name", "seed_everything")
_FOR_ONE_RUN = ("ckpt_path", "init_from", "new_version")


def fit_seeds(request: Request) -> int:
    """Make one run per seed, then show and store the interquartile mean with its interval.

    Raises:
        ConfigError: An option is for a single run.
    """
    for name in _FOR_ONE_RUN:
        if name in request.own:
            raise ConfigError(f"--{name} is for a single run, not for --run.seeds")
    plan = plan_seeds(request)
    check_unchanged(plan.cells)
    with outliving_the_reader():
        return run_plan(plan)


def plan_seeds(request: Request) -> Plan:
    """Return the runs of all seeds."""
    from lightning_rl.cli.parser import RunCLI

    number = last_value(request, ("run", "seeds"))
    options = [option.token for option in request.options if option.key not in _OWN]
    options += ["--run.require_exact=true"] * bool(request.own.get("require_exact"))
    # Parsed here too, so that a mistake is one line and not one failure per seed.
    config = RunCLI(request.documents, [o.token for o in request.options], build=False).config
    algorithm = config.model.class_path.rsplit(".", 1)[-1]
    env_id = str(config.model.init_args.env.id)
    now = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_seeds{number}"
    place = RunConfig(config.run.root, config.run.experiment, config.run.name or now)
    folder = RunDirectory.resolve(place, algorithm, env_id, 0)
    defaults, *documents = [document.data for document in request.documents]
    quiet = {"trainer": {"enable_progress_bar": False}}
    execution = ExecutionConfig(config.trainer.test_episodes)
    cells = []
    for seed in _seeds(request, number):
        run = {"root": str(folder.parent), "experiment": folder.name, "name": f"seed{seed}"}
        own = {"seed_everything": seed, "run": {**run, "seeds": 1}}
        layers = [defaults, quiet, *documents, own]
        cells.append(
            Cell(env_id, algorithm, seed, folder / f"seed{seed}", layers, options, execution)
        )
    again = "the same command" if config.run.name else f"the same with --run.name {folder.name}"
    return Plan(folder.name, folder, cells, workers_asked(request), again=again)


def _seeds(request: Request, number: int) -> list[int]:
    """Return the seeds, counted from the one that is given."""
    given = last_value(request, ("seed_everything",))
    first = given if isinstance(given, int) and not isinstance(given, bool) else 1
    return list(range(first, first + number))

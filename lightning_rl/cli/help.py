"""Help texts, put together from docstrings without importing what they describe."""

from __future__ import annotations

import textwrap

from lightning_rl.cli.arguments import PLAIN
from lightning_rl.cli.checks import ENV, RUN, TRAINER, algorithms, argument_names
from lightning_rl.cli.signatures import argument_help, docstring_of, signature_of

COMMANDS = {
    "fit": "train an agent; without arguments PPO on CartPole-v1",
    "resume": "continue a run in place: resume RUN_DIR | CHECKPOINT [options]",
    "validate": "evaluate a checkpoint as during training",
    "test": "play a trained agent for 100 episodes and write results.json",
    "predict": "write episodes of a trained agent as a data set",
    "record": "film a trained agent, or play an episode again from its replay file",
    "export": "write a policy as ONNX or torch.export file that runs without this package",
    "study": "train environments × models × seeds from one file, and show the results",
    "runs": "runs list | show | compare | query | prune | tail",
    "doctor": "doctor [ENV_ID]: check this installation with a tiny run, in half a minute",
    "sweep": "look for good hyperparameters: sweep --config FILE | --space PATH=VALUES",
    "list": "list algorithms | configs | tags | environments",
}

_OPTIONS = {
    "config": (
        "FILE",
        "YAML file, or the name of a shipped one (`ppo/cartpole`); repeatable, later wins",
    ),
    "trust": ("PACKAGE", "allow the configuration to name code of this package; repeatable"),
    "print_config": ("", "print the resolved configuration and stop"),
    "ckpt_path": ("CKPT", "checkpoint file"),
    "init_from": ("CKPT", "start from the weights of this checkpoint, and nothing else of it"),
    "wandb": ("", "log to Weights & Biases as well"),
    "mlflow": ("", "log to MLflow as well: $MLFLOW_TRACKING_URI, else mlflow.db beside the runs"),
    "new_version": ("", "if the run directory exists, take a free name beside it"),
    "require_exact": ("", "refuse an environment whose state a resume could not restore"),
    "episodes": ("N", "episodes to play (default 100, of validate 20, of record 1)"),
    "replay": ("FILE", "a file of EpisodeReplays: play that episode again"),
    "output": ("PATH", "where the result is written (default: the run directory)"),
    "format": ("NAME", "onnx (default) or torch"),
    "root": ("DIR", "folder of the runs (default logs)"),
    "json": ("", "JSON instead of tables"),
    "status": ("S,...", "runs list, prune: only these, such as failed,killed"),
    "algorithm": ("NAME", "runs list, prune: only of this algorithm"),
    "env": ("ID", "runs list, prune: only on this environment"),
    "older_than": ("TIME", "runs list, prune: only older ones, such as 12h or 30d"),
    "sort": ("KEY", "runs list: created, best_reward, last_reward, env_steps, wall_time_s"),
    "limit": ("N", "runs list, query: at most so many, the last ones (of --sql the first)"),
    "metric": ("TAG", "runs query: only this metric; runs compare: show it too, repeatable"),
    "agent_id": ("ID", "runs query: only of this agent"),
    "min_episode": ("N", "runs query: from this episode on"),
    "max_episode": ("N", "runs query: up to this episode"),
    "source": ("NAME", "runs query: log for logged rows, episode for single episodes"),
    "sql": ("SELECT", "runs query: a query of your own on table metrics, read-only"),
    "yes": ("", "runs prune: do not ask"),
    "lines": ("N", "runs tail: rows to begin with (default 10)"),
    "allow_change": ("KEY", "let this key differ from the saved configuration; repeatable"),
    "dry_run": ("", "show what would be trained, train nothing"),
    "workers": ("N", "runs at a time, each in a process of its own"),
    "reference": ("FILE", "results.json to compare with; exit 1 where something is worse"),
    "run.root": ("DIR", "the same as --output_dir"),
    "name": ("NAME", "name of the study or sweep"),
    "seeds": ("N", "so many seeds, from 1 on, or a list: 3,5,8"),
    "total_env_steps": ("N", "budget of every cell, whatever the file says"),
    "total_episodes": ("N", "the same in episodes"),
    "output_dir": ("DIR", "where its folder is made (default logs)"),
    "log_level": ("LEVEL", "of the runs' training.log"),
    "space": ("PATH=V,V,...", "values of one setting, or {log_uniform: [a, b]}; repeatable"),
    "sampler": ("NAME", "tpe, random, grid or cmaes"),
    "pruner": ("NAME", "none, median, asha or hyperband: stop runs that fall behind"),
    "trials": ("N", "trials in all, over all machines (default 20)"),
    "storage": ("URL", "where trials are kept (default sweep.db in the sweep's folder)"),
    "seed": ("N", "seed of the sampler (default 1)"),
    "objective": ("NAME", "best or last evaluation of a run"),
    "export_wandb": ("FILE", "write the sweep for `wandb sweep` and run nothing"),
    "help": ("", "show this"),
}


def main_help() -> str:
    """Return the text of `lightning-rl --help`."""
    lines = ["usage: lightning-rl COMMAND [options]", "", "commands:"]
    lines += [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
    lines += [
        "",
        "  lightning-rl fit --config ppo/cartpole --model.total_env_steps 200000",
        "  lightning-rl fit --model dqn --model.env CartPole-v1 --run.name first",
        "  lightning-rl resume logs/dqn-cartpole-v1/first --model.total_env_steps 400000",
        "  lightning-rl test --ckpt_path logs/dqn-cartpole-v1/first/checkpoints/best.ckpt",
        "",
        "`lightning-rl COMMAND --help` shows a command's options; --version the version.",
    ]
    return "\n".join(lines)


def command_help(command: str, own_options: tuple[str, ...], algorithm: str | None) -> str:
    """Return the text of `lightning-rl COMMAND --help`.

    Args:
        command: Name of the command.
        own_options: Its options outside the configuration.
        algorithm: Class path of the algorithm whose hyperparameters are shown, if one was named.
    """
    lines = [f"lightning-rl {command}: {COMMANDS[command]}", "", "options:"]
    for name in own_options:
        value, text = _OPTIONS[name]
        lines += _entry(f"--{name} {value}".rstrip(), text)
    if command in PLAIN:
        return "\n".join(lines)
    lines += ["", "configuration (in YAML the same names, nested):"]
    lines += _entry(
        "--seed_everything INT", "seed of everything; drawn and recorded when not given"
    )
    lines += _section("run", RUN)
    names = algorithms()
    lines += _entry("--model NAME", f"algorithm: {', '.join(names)}")
    if algorithm:
        lines += ["", f"{algorithm.rsplit('.', 1)[-1]}: {docstring_of(algorithm)}"]
        lines += _section("model", algorithm)
    else:
        lines += _entry("--model.NAME", "hyperparameter; `--model ppo --help` lists PPO's")
    lines += _section("model.env", ENV)
    lines += _section("trainer", TRAINER)
    return "\n".join(lines)


def _section(prefix: str, class_path: str) -> list[str]:
    signature = signature_of(class_path)
    lines = []
    for name in argument_names(signature) if signature else []:
        text = argument_help(class_path, name)
        expected = signature.parameters[name].expected if signature else ""
        lines += _entry(f"--{prefix}.{name} {expected}", text)
    return lines


def _entry(head: str, text: str) -> list[str]:
    wrapped = textwrap.wrap(text, 66)
    if len(head) < 30:
        first, *rest = wrapped or [""]
        return [f"  {head:<30} {first}".rstrip(), *(" " * 33 + line for line in rest)]
    return [f"  {head}", *(" " * 33 + line for line in wrapped)]

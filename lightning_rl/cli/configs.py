"""Finds the configuration files that ship with the package, by name."""

from __future__ import annotations

from pathlib import Path

from lightning_rl.errors import ConfigError, nearest

DEFAULTS = "defaults"


def configs_folder() -> Path:
    """Return the folder of shipped configurations: in a wheel's package, beside a checkout's."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def shipped_configs() -> list[str]:
    """Return the names of the shipped configurations, such as `ppo/cartpole`."""
    folder = configs_folder()
    files = (file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))
    return sorted(name for name in files if name != DEFAULTS)


def find_config(name: str) -> tuple[Path, str]:
    """Return the file that `--config NAME` means, and what to call it in messages.

    A file of that path wins over a shipped configuration of that name; `configs/ppo/cartpole.yaml`
    means the shipped one where there is no such file.

    Raises:
        ConfigError: If there is neither; with the nearest names.
    """
    file = Path(name).expanduser()
    if file.is_file():
        return file, name
    shipped = [DEFAULTS, *shipped_configs()]
    short = name.removeprefix("configs/").removesuffix(".yaml").lower()
    if short in shipped:
        return configs_folder() / f"{short}.yaml", name
    if file.is_dir():
        raise ConfigError(f"--config {name}: expected a YAML file, got a directory")
    beside = [str(other) for other in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
    matches = nearest(short, shipped, 1) or nearest(name, beside, 1)
    hint = (
        f"; did you mean {matches[0]!r}?"
        if matches
        else "; `lightning-rl list configs` shows the shipped ones"
    )
    raise ConfigError(f"--config {name}: no such file or shipped configuration{hint}")

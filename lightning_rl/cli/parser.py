"""LightningCLI, fitted to this package: one command, our Trainer, errors in one line."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.cli.checks import SECTIONS
from lightning_rl.cli.messages import one_line
from lightning_rl.cli.yaml_check import Document
from lightning_rl.errors import ConfigError
from lightning_rl.runs.directory import RunConfig
from lightning_rl.runs.provenance import redact
from lightning_rl.runs.trainer import Trainer
from lightning_rl.trust import apply_parsing_settings, trusted_packages


class RunParser(LightningArgumentParser):
    """A parser whose mistakes are `ConfigError`s of one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing a page of usage.

        A type such as `A | B` is tried by parsers with `exit_on_error=False`, whose errors are part
        of the search.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        raise ConfigError(one_line(message))


class RunCLI(LightningCLI):
    """Parses a checked configuration and builds the agent and the trainer from it.

    The method of the trainer is called by the command, not here.

    Args:
        documents: Configurations, first the weakest.
        options: Options as `--key=value`.
        command: The command, for messages.
        build: False parses only.
    """

    model: Algorithm
    trainer: Trainer  # type: ignore[assignment]

    def __init__(
        self,
        documents: Sequence[Document],
        options: Sequence[str],
        command: str = "fit",
        build: bool = True,
    ) -> None:
        self.build = build
        apply_parsing_settings()
        configs = [f"--config={_as_text(document.data)}" for document in documents]
        super().__init__(
            model_class=Algorithm,
            subclass_mode_model=True,
            trainer_class=Trainer,
            save_config_callback=None,  # the run directory keeps the configuration itself
            parser_class=RunParser,
            # Otherwise `--trainer.max_epoch 3` is taken for a prefix of max_epochs.
            parser_kwargs={"allow_abbrev": False, "prog": f"lightning-rl {command}"},
            args=[*configs, *options],
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def _set_seed(self) -> None:
        """Draw the seed where none was given; Lightning would take 0."""
        logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
        if self.config.seed_everything is True:
            # A process that another rank has started takes over what that one has drawn.
            started = os.environ.get("LOCAL_RANK", "0") != "0"
            drawn = os.environ.get("PL_GLOBAL_SEED") if started else None
            self.config.seed_everything = int(drawn) if drawn else secrets.randbelow(2**31)
        super()._set_seed()

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add run, model and trainer; there is no data section."""
        parser.add_class_arguments(RunConfig, "run")
        parser.add_class_arguments(
            Trainer, "trainer", fail_untyped=False, instantiate=False, skip={"run"}
        )
        parser.add_lightning_class_args(Algorithm, "model", subclass_mode=True)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; unlike the parent, without a warning about `sys.argv`."""
        self.config = parser.parse_args(args)

    def instantiate_classes(self) -> None:
        """Build the agent and the trainer; as the parent, without jsonargparse's old names."""
        if not self.build:
            return
        try:
            self.config_init = self.parser.instantiate(self.config)
        except ValueError as error:
            raise _cause(error) from None
        self.model = self.config_init.model
        self.trainer = self.instantiate_trainer()

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Build the trainer with the run's description."""
        try:
            return super().instantiate_trainer(run=self.config_init.run, **kwargs)
        except ConfigError:
            raise
        except (TypeError, ValueError, MisconfigurationException) as error:
            raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error


def _cause(error: BaseException) -> ConfigError:
    """Return the mistake that jsonargparse wraps into what it tried to build around it."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ConfigError):
            return inner
        inner = inner.__cause__ or inner.__context__
    return ConfigError(one_line(str(error)))


def resolved_config_yaml(cli: RunCLI, kept_run: Mapping[str, Any] | None = None) -> str:
    """Return the configuration that starts an identical run: `run`, seed, `model`, `trainer`.

    `compile: auto` stands as what it came to, and secrets of the environment are left out. Trusted
    packages are named in a comment, as information: a file cannot give consent.

    Args:
        cli: After parsing; when the agent is not built, `compile` stays as it is.
        kept_run: Entries of `run` that a resumed run's configuration keeps, such as a generated
            name, which stands as null.
    """
    dumped = yaml.safe_load(cli.parser.dump(cli.config, skip_unset=False, skip_validation=True))
    content = {key: dumped[key] for key in SECTIONS if key in dumped}
    content["run"].update({"new_version": False, **(kept_run or {})})
    compiled = getattr(getattr(cli, "model", None), "compiled", None)
    init_args = content.get("model", {}).get("init_args", {})
    if isinstance(init_args.get("env"), dict):
        init_args["env"].pop("factory", None)
    if compiled is not None and "compile" in init_args:
        init_args["compile"] = bool(compiled)
    header = "".join(f"# needs --trust {package}\n" for package in trusted_packages())
    return redact(header + _as_text(content))


def _as_text(data: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True)

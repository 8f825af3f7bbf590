"""A trained policy as one file that runs without this package: ONNX, or PyTorch's own program."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from gymnasium import spaces
from torch import Tensor, nn

import lightning_rl
from lightning_rl.algorithms.base import Algorithm
from lightning_rl.envs.action_module import ActionModule
from lightning_rl.envs.spaces import allocate, space_to_dict
from lightning_rl.errors import CheckpointError, ConfigError, check_choice
from lightning_rl.experience.evaluation import evaluation_mode
from lightning_rl.functional.trees import tree_items
from lightning_rl.runs.export_check import check_actions
from lightning_rl.runs.plain_json import dumps
from lightning_rl.runs.upkeep import one_line
from lightning_rl.storage.sealed import TEMPORARY_PREFIX

Format = Literal["onnx", "torch"]
SUFFIXES: dict[str, str] = {"onnx": ".onnx", "torch": ".pt2"}
METADATA = "metadata.json"
"""Name of the extra file that a `torch` program carries; ONNX has its metadata properties."""

_NEEDED = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: The file.
        format: `onnx` or `torch`.
        inputs: Names of the inputs: `observation`, or the keys of a flat Dict; then `state` of a
            recurrent policy.
        outputs: `action`, and `next_state` of a recurrent policy.
        checked: Observations on which the file's actions were found equal to the agent's.
    """

    path: Path
    format: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    checked: int


class ExportedPolicy(nn.Module):
    """From the environment's observations, one argument per input, to what its `step` takes.

    Args:
        policy: The algorithm's `policy_module`.
        observation_space: Flat space of one observation.
        action: What adapts the policy's actions to the environment.
    """

    def __init__(self, policy: nn.Module, observation_space: Any, action: ActionModule) -> None:
        super().__init__()
        self.policy, self.action = policy, action
        is_dict = isinstance(observation_space, spaces.Dict)
        self.keys = tuple(observation_space.spaces) if is_dict else None
        self.state_shape: tuple[int, ...] | None = getattr(policy, "state_shape", None)

    def forward(self, *inputs: Tensor) -> Any:
        """Return the actions `(B, *action_shape)`, of a recurrent policy also its next state."""
        leaves = inputs if self.state_shape is None else inputs[:-1]
        observation: Any = leaves[0] if self.keys is None else dict(zip(self.keys, leaves))  # noqa: B905 - torch.export traces no `strict`
        if self.state_shape is None:
            return self.action(self.policy(observation))
        action, state = self.policy(observation, inputs[-1])
        return self.action(action), state


def export_policy(
    agent: Algorithm, path: str | Path, format: Format = "onnx", num_checks: int = 2_000
) -> Export:
    """Write the greedy policy with everything that belongs to it, and check the written file.

    Normalisation of observations and what makes the environment's action of the policy's (argmax,
    mode, clipping, rescaling) are inside: the file takes observations as the environment returns
    them, in a batch `(B, *obs_shape)` of any size, floats as float32, and its actions are what
    `agent.predict` returns.

    Args:
        agent: The agent; it is not changed.
        path: The file to write, replaced when it exists.
        format: `onnx`, for any ONNX runtime, or `torch`, for `torch.export.load`.
        num_checks: Observations on which the file must act as the agent does.

    Raises:
        ConfigError: An unknown format, a missing package, an algorithm without a policy to export,
            or a file that cannot be written.
        CheckpointError: The written policy would act otherwise, or torch cannot export it.
    """
    check_choice("format", format, SUFFIXES)
    if format == "onnx":
        _check_packages()
    path = Path(path)
    if format == "torch" and path.suffix != SUFFIXES["torch"]:
        raise ConfigError(f"expected a path ending in .pt2, as torch demands, received {path}")
    module, inputs, names = exportable(agent)
    outputs = ("action",) if module.state_shape is None else ("action", "next_state")
    temporary = path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _quiet():
                program = _program(module, inputs)
                if format == "onnx":
                    _write_onnx(program, inputs, names, outputs, temporary, _metadata(agent))
                else:
                    extra: Any = {METADATA: dumps(_metadata(agent))}
                    # By way of memory: where torch cannot write a file, it raises a RuntimeError.
                    content = io.BytesIO()
                    torch.export.save(program, content, extra_files=extra)
                    temporary.write_bytes(content.getvalue())
            run = _onnx_runner(temporary, names) if format == "onnx" else _torch_runner(temporary)
            with evaluation_mode(agent):
                checked = check_actions(agent, module, run, num_checks)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
    return Export(path, format, names, outputs, checked)


def exportable(agent: Algorithm) -> tuple[ExportedPolicy, tuple[Tensor, ...], tuple[str, ...]]:
    """Return the module to export on the CPU, example inputs of two rows, and their names."""
    policy = copy.deepcopy(agent.policy_module()).cpu().eval().requires_grad_(False)
    action = ActionModule(agent.action_space, agent.env_config.action)
    module = ExportedPolicy(policy, agent.observation_space, action).eval()
    example = allocate(agent.observation_space, 2)
    names = [key or "observation" for key, _ in tree_items(example)]
    inputs = [torch.from_numpy(leaf) for _, leaf in tree_items(example)]
    if module.state_shape is not None:
        names.append("state")
        inputs.append(torch.zeros(2, *module.state_shape))
    return module, tuple(inputs), tuple(names)


def _program(module: ExportedPolicy, inputs: tuple[Tensor, ...]) -> Any:
    rows: Any = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    try:
        return torch.export.export(module, inputs, dynamic_shapes=(rows,))
    except Exception as error:  # many kinds, all about the network's own code
        name = type(module.policy).__name__
        raise CheckpointError(f"torch cannot export {name}: {one_line(error)}") from error


def _write_onnx(
    program: Any,
    inputs: tuple[Tensor, ...],
    names: tuple[str, ...],
    outputs: tuple[str, ...],
    path: Path,
    metadata: dict[str, Any],
) -> None:
    onnx = torch.onnx.export(
        program, inputs, input_names=names, output_names=outputs, verbose=False
    )
    if onnx is None:
        raise CheckpointError("torch wrote no ONNX program")
    for key, value in metadata.items():
        onnx.model.metadata_props[key] = value if isinstance(value, str) else dumps(value, None)
    onnx.save(str(path), external_data=False)


def _metadata(agent: Algorithm) -> dict[str, Any]:
    return {
        "lightning_rl": lightning_rl.__version__,
        "algorithm": type(agent).__name__,
        "environment": agent.env_config.name,
        "env_steps": agent.env_steps,
        "observation_space": space_to_dict(agent.observation_space),
        "action_space": space_to_dict(agent.action_space),
    }


def _onnx_runner(path: Path, names: tuple[str, ...]) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> list[Tensor]:
        feed = {name: leaf.numpy() for name, leaf in zip(names, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, feed)]

    return run


def _torch_runner(path: Path) -> Any:
    module = torch.export.load(str(path)).module()

    def run(*inputs: Tensor) -> list[Tensor]:
        with torch.no_grad():
            outputs = module(*inputs)
        return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]

    return run


def _check_packages() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"export to ONNX needs {', '.join(missing)}: pip install 'lightning-rl[onnx]'; "
            "--format torch needs nothing more"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' remarks about themselves out of the terminal."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)

"""Each mistake is answered by one line with its place and what to do: exit 2, no traceback."""

# ruff: noqa: E501 - a case is one line

from __future__ import annotations

import random
import re
import string
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_rl.cli.arguments import OWN_OPTIONS
from lightning_rl.cli.checks import ENV, TRAINER, argument_names, check_document
from lightning_rl.cli.configs import configs_folder
from lightning_rl.cli.options import check_option
from lightning_rl.cli.signatures import signature_of
from lightning_rl.cli.yaml_check import parse_document
from lightning_rl.errors import ConfigError

Run = Callable[..., Any]
PPO = "lightning_rl.algorithms.ppo.PPO"
MODEL = "model:\n  class_path: PPO\n  init_args:\n"
ENV_YAML = MODEL + "    env:\n      id: CartPole-v1\n"
BOUNDS = "trainer:\n"

# (what a file says, what the one line must contain)
FILES = {
    "unknown section": ("modle:\n  a: 1\n", "x.yaml:1: modle: unknown key 'modle' of the top level; did you mean 'model'?"),
    "unknown section far": ("zzz: 1\n", "x.yaml:1: zzz: unknown key 'zzz' of the top level; expected one of run"),
    "misspelt key": (MODEL + "    lerning_rate: 1\n", "x.yaml:4: model.init_args.lerning_rate: unknown key 'lerning_rate' of PPO; did you mean 'learning_rate'?"),
    "key of another algorithm": (MODEL + "    capacity: 10\n", "unknown key 'capacity' of PPO"),
    "argument of the environment": (ENV_YAML + "      map_name: 4x4\n", "x.yaml:6: model.init_args.env.map_name: unknown key 'map_name' of EnvConfig; expected one of id, num_envs, vectorization, kwargs, wrappers, max_episode_steps, normalize_observation, normalize_reward, frame_stack, imports, eval_kwargs, action; the environment's own arguments belong under kwargs"),
    "misspelt env key": (ENV_YAML + "      num_env: 2\n", "x.yaml:6: model.init_args.env.num_env: unknown key 'num_env' of EnvConfig; did you mean 'num_envs'?"),
    "misspelt trainer key": (BOUNDS + "  max_epoch: 1\n", "x.yaml:2: trainer.max_epoch: unknown key 'max_epoch' of Trainer; did you mean 'max_epochs'?"),
    "misspelt run key": ("run:\n  nmae: a\n", "x.yaml:2: run.nmae: unknown key 'nmae' of RunConfig; did you mean 'name'?"),
    "misspelt class_path": ("model:\n  class_pth: PPO\n", "did you mean 'class_path'?"),
    "hyperparameter in the wrong place": ("model:\n  class_path: PPO\n  gamma: 0.9\n", "x.yaml:3: model.gamma: unknown key 'gamma'; hyperparameters belong under model.init_args"),
    "unknown algorithm": ("model: PP0\n", "x.yaml:1: model.class_path: unknown algorithm 'PP0'; did you mean 'PPO'?"),
    "unknown algorithm far": ("model: zebra\n", "unknown algorithm 'zebra'; expected one of"),
    "algorithm is a number": ("model:\n  class_path: 3\n", "x.yaml:2: model.class_path: expected the name of an algorithm, got 3"),
    "algorithm not trusted": ("model: evil.mod.Net\n", "'evil.mod.Net' is not on the allow-list"),
    "own package, no such class": ("model: lightning_rl.algorithms.ppo.PPOO\n", "did you mean 'PPO'?"),
    "model is a list": ("model: [PPO]\n", "x.yaml:1: model: expected a mapping"),
    "init_args is a value": ("model:\n  class_path: PPO\n  init_args: 3\n", "x.yaml:3: model.init_args: expected a mapping (indented 'key: value' lines), got 3"),
    "wrong type float": (MODEL + "    gamma: high\n", "x.yaml:4: model.init_args.gamma: expected float, got 'high'"),
    "wrong type int": (MODEL + "    num_steps: 12.5\n", "x.yaml:4: model.init_args.num_steps: expected int, got 12.5"),
    "wrong type bool": (MODEL + "    normalize_advantage: 1\n", "expected bool, got 1"),
    "bool for a number": (MODEL + "    gamma: yes\n", "expected float, got True"),
    "number quoted": (MODEL + "    gamma: '0.9'\n", "expected float, got '0.9'"),
    "unit in a number": (MODEL + "    total_env_steps: 100k\n", "x.yaml:4: model.init_args.total_env_steps: expected int | None, got '100k'"),
    "comma in a number": (MODEL + "    total_env_steps: 100,000\n", "expected int | None, got '100,000'"),
    "none where a value is needed": (MODEL + "    gamma:\n", "expected float, got None"),
    "list for a scalar": (MODEL + "    gamma: [0.9]\n", "expected float, got a list"),
    "scalar for a list": (MODEL + "    hidden_sizes: 64\n", "x.yaml:4: model.init_args.hidden_sizes: expected"),
    "mapping for a scalar": (MODEL + "    gamma: {a: 1}\n", "expected float, got a mapping"),
    "wrong choice": (MODEL + "    learning_rate_schedule: cosine\n", "expected Literal['constant', 'linear', 'adaptive_kl'], got 'cosine'"),
    "wrong vectorization": (ENV_YAML + "      vectorization: asynch\n", "x.yaml:6: model.init_args.env.vectorization: expected Literal["),
    "env is a number": (MODEL + "    env: 3\n", "x.yaml:4: model.init_args.env: expected a mapping"),
    "env is a list": (MODEL + "    env: [CartPole-v1]\n", "model.init_args.env: expected a mapping"),
    "env id is a number": (MODEL + "    env:\n      id: 3\n", "x.yaml:5: model.init_args.env.id: expected str | None, got 3"),
    "unknown env": (MODEL + "    env: CartPol-v1\n", "x.yaml:4: model.env: unknown environment 'CartPol-v1'; nearest: CartPole-v1"),
    "unknown env in full": (MODEL + "    env:\n      id: Acrbot-v1\n", "x.yaml:5: model.env: unknown environment 'Acrbot-v1'; nearest: Acrobot-v1"),
    "env module not trusted": (MODEL + "    env: evil_module:Id-v0\n", "x.yaml:4: model.init_args.env.id: 'evil_module' is not on the allow-list"),
    "imports not trusted": (ENV_YAML + "      imports: [evil_module]\n", "x.yaml:6: model.init_args.env.imports: 'evil_module' is not on the allow-list"),
    "wrapper not trusted": (ENV_YAML + "      wrappers: [evil.Wrap]\n", "x.yaml:6: model.init_args.env.wrappers: 'evil.Wrap' is not on the allow-list"),
    "wrapper spec not trusted": (ENV_YAML + "      wrappers:\n      - class_path: evil.Wrap\n", "'evil.Wrap' is not on the allow-list"),
    "env factory": (MODEL + "    env: {factory: a.b}\n", "is for Python only"),
    "imports is a text": (ENV_YAML + "      imports: gymnasium\n", "expected list[str], got 'gymnasium'"),
    "kwargs is a list": (ENV_YAML + "      kwargs: [1]\n", "expected dict[str, Any], got a list"),
    "actor not trusted": (MODEL + "    actor: {class_path: evil.mod.Net}\n", "x.yaml:4: model.init_args.actor.class_path: 'evil.mod.Net' is not on the allow-list"),
    "actor unknown": (MODEL + "    actor: MLPActr\n", "unknown class 'MLPActr'; did you mean 'MLPActor'?"),
    "actor's argument unknown": (MODEL + "    actor: {class_path: MLPActor, init_args: {hiden_sizes: [1]}}\n", "unknown key 'hiden_sizes' of MLPActor; did you mean 'hidden_sizes'?"),
    "class unknown": (BOUNDS + "  callbacks: lightning.pytorch.callbacks.EarlyStoping\n", "lightning.pytorch.callbacks has no class 'EarlyStoping'; did you mean 'EarlyStopping'?"),
    "callback unknown": (BOUNDS + "  callbacks: [EarlyStoping]\n", "x.yaml:2: trainer.callbacks.0: unknown class 'EarlyStoping'; did you mean 'EarlyStopping'?"),
    "callback's argument unknown": (BOUNDS + "  callbacks:\n  - class_path: EarlyStopping\n    init_args:\n      patiense: 3\n", "x.yaml:5: trainer.callbacks.0.init_args.patiense: unknown key 'patiense' of EarlyStopping; did you mean 'patience'?"),
    "callback's argument type": (BOUNDS + "  callbacks:\n  - class_path: EarlyStopping\n    init_args:\n      patience: long\n", "x.yaml:5: trainer.callbacks.0.init_args.patience: expected int, got 'long'"),
    "callback not trusted": (BOUNDS + "  callbacks:\n  - class_path: evil.Callback\n", "x.yaml:3: trainer.callbacks.0.class_path: 'evil.Callback' is not on the allow-list"),
    "object with a strange key": (BOUNDS + "  callbacks:\n  - class_path: EarlyStopping\n    args: {}\n", "unknown key 'args' of an object"),
    "logger not trusted": (BOUNDS + "  logger: {class_path: evil.Logger}\n", "'evil.Logger' is not on the allow-list"),
    "logger unknown": (BOUNDS + "  logger: {class_path: WandLogger}\n", "did you mean 'WandbLogger'?"),
    "lightning's own command line": (BOUNDS + "  callbacks: [{class_path: lightning.pytorch.cli.SaveConfigCallback}]\n", "is not on the allow-list"),
    "trainer type": (BOUNDS + "  max_epochs: many\n", "x.yaml:2: trainer.max_epochs: expected"),
    "trainer is a list": ("trainer: [1]\n", "x.yaml:1: trainer: expected a mapping"),
    "trainer run": (BOUNDS + "  run: {name: a}\n", "unknown key 'run' of Trainer"),
    "run name is a number": ("run:\n  name: 2024\n", "x.yaml:2: run.name: expected str | None, got 2024"),
    "tags is a text": ("run:\n  tags: a\n", "expected list[str], got 'a'"),
    "seed is a text": ("seed_everything: one\n", "x.yaml:1: seed_everything: expected an integer or true, got 'one'"),
    "duplicate key": (MODEL + "    gamma: 0.9\n    gamma: 0.8\n", "x.yaml:5: model.init_args.gamma: duplicate key, already given in line 4"),
    "duplicate section": ("run: {}\nmodel: PPO\nrun: {}\n", "x.yaml:3: run: duplicate key, already given in line 1"),
    "tab": ("model:\n\tclass_path: PPO\n", "x.yaml:2: YAML is indented by spaces, found a tab"),
    "bad indentation": ("model:\n  class_path: PPO\n init_args: {}\n", "x.yaml:3: not valid YAML"),
    "unclosed bracket": ("run:\n  tags: [a, b\n", "not valid YAML"),
    "colon in a text": ("run:\n  description: a: b\n", "x.yaml:2: not valid YAML: mapping values are not allowed in this context (is the line"),
    "python tag": ("run: !!python/object/apply:os.system [ls]\n", "the tag !!python/object/apply:os.system is not allowed"),
    "a list": ("- model\n", "x.yaml:1: expected keys"),
    "empty": ("", "x.yaml:1: expected keys such as 'model:' and 'trainer:', got nothing"),
    "number as key": ("1: 2\n", "x.yaml:1: a key must be a text, got 1"),
    "endless alias": ("run: &a {tags: [*a]}\n", "aliases"),
}  # fmt: skip

# (words behind `lightning-rl`, what the one line must contain)
COMMANDS = {
    "misspelt command": ("fitt", "unknown command 'fitt'; did you mean 'fit'?"),
    "unknown command": ("xyz", "unknown command 'xyz'; expected one of fit, resume"),
    "missing config": ("fit --config nowhere.yaml", "--config nowhere.yaml: no such file or shipped configuration"),
    "misspelt config": ("fit --config ppo/cartpol", "did you mean 'ppo/cartpole'?"),
    "config without value": ("fit --config", "--config: expected a value"),
    "config is a folder": ("fit --config .", "expected a YAML file, got a directory"),
    "misspelt option": ("fit --model.gama 0.9", "unknown option --model.gama; did you mean '--model.gamma'?"),
    "misspelt env option": ("fit --model.env.num_env 2", "unknown option --model.env.num_env; did you mean '--model.env.num_envs'?"),
    "misspelt trainer option": ("fit --trainer.max_epoch 3", "did you mean '--trainer.max_epochs'?"),
    "misspelt run option": ("fit --run.nam a", "did you mean '--run.name'?"),
    "section left out": ("fit --gamma 0.9", "unknown option --gamma; did you mean '--model.gamma'?"),
    "section misspelt": ("fit --modle.gamma 0.9", "did you mean '--model.gamma'?"),
    "option of another algorithm": ("fit --model dqn --model.gae_lambda 0.9", "unknown option --model.gae_lambda"),
    "option of another command": ("fit --episodes 3", "--episodes is an option of validate, test, predict, record, not of fit"),
    "misspelt own option": ("fit --init_form a.ckpt", "did you mean '--init_from'?"),
    "option's type": ("fit --model.gamma high", "--model.gamma: expected float, got 'high'"),
    "option without value": ("fit --model.gamma", "--model.gamma: expected a value"),
    "option's list": ("fit --model.hidden_sizes 64", "--model.hidden_sizes: expected tuple[int, ...], got '64'"),
    "option's broken list": ("fit --model.hidden_sizes [64", "'[64' is not a list or mapping"),
    "unknown env": ("fit --model.env CartPol-v1", "--model.env: unknown environment 'CartPol-v1'; nearest: CartPole-v1"),
    "env of a foreign module": ("fit --model.env evil_module:Id-v0", "'evil_module' is not on the allow-list"),
    "unknown algorithm": ("fit --model pp0", "unknown algorithm 'pp0'; did you mean 'PPO'?"),
    "stray word": ("fit ppo/cartpole", "unexpected argument 'ppo/cartpole'"),
    "short option": ("fit -x", "unknown option -x"),
    "seed": ("fit --seed_everything one", "--seed_everything: expected an integer or true, got 'one'"),
    "trust": ("fit --trust a/b", "--trust expects the dotted name of a package, got 'a/b'"),
    "actor not trusted": ("fit --model.actor evil.Net", "--model.actor: 'evil.Net' is not on the allow-list"),
    "callback option": ("fit --trainer.callbacks+=EarlyStoping", "unknown class 'EarlyStoping'; did you mean 'EarlyStopping'?"),
    "missing weights": ("fit --init_from a.ckpt", "--init_from a.ckpt: no such checkpoint"),
    "test without checkpoint": ("test", "test: expected --ckpt_path CKPT"),
    "test of a missing checkpoint": ("test --ckpt_path a.ckpt", "--ckpt_path a.ckpt: no such checkpoint"),
    "test of no episodes": ("test --ckpt_path a.ckpt --episodes 0", "--episodes: expected a whole number of at least 1, got '0'"),
    "resume nothing": ("resume", "resume: expected one run directory or checkpoint"),
    "resume a missing run": ("resume logs/a/b", "resume logs/a/b: no such run directory or checkpoint"),
    "resume a folder": ("resume .", "holds no run (no config.yaml)"),
    "list nothing": ("list", "list: expected one of algorithms"),
    "list misspelt": ("list algoritms", "list: unknown topic 'algoritms'; did you mean 'algorithms'?"),
    "given twice": ("fit --init_from a --init_from b", "--init_from is given twice"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_mistake_in_a_file(name: str, run: Run) -> None:
    text, expected = FILES[name]
    Path("x.yaml").write_text(text)
    started = time.perf_counter()
    outcome = run("fit", "--config", "x.yaml")
    assert time.perf_counter() - started < 2.0
    assert outcome.code == 2
    assert expected in outcome.message
    assert outcome.out == ""
    assert sorted(p.name for p in Path().iterdir()) == ["x.yaml"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistake_in_a_command(name: str, run: Run) -> None:
    words, expected = COMMANDS[name]
    outcome = run(*words.split())
    assert outcome.code == 2
    assert expected in outcome.message
    assert list(Path().iterdir()) == []


def test_at_least_eighty_cases_are_tried() -> None:
    assert len(FILES) + len(COMMANDS) >= 80


def one_edit_away(name: str, source: random.Random) -> str:
    """Return a name with one letter dropped, doubled, replaced, inserted, or two exchanged."""
    at = source.randrange(len(name))
    letter = source.choice(string.ascii_lowercase)
    return source.choice(
        [
            name[:at] + name[at + 1 :],
            name[:at] + name[at] + name[at:],
            name[:at] + letter + name[at + 1 :],
            name[:at] + letter + name[at:],
            name[:at] + name[at + 1 : at + 2] + name[at] + name[at + 2 :],
        ]
    )


def typos(names: list[str], count: int) -> list[tuple[str, str]]:
    source = random.Random(0)
    found: list[tuple[str, str]] = []
    while len(found) < count:
        name = source.choice([n for n in names if len(n) > 2])
        typo = one_edit_away(name, source)
        if typo not in names and typo.isidentifier():
            found.append((typo, name))
    return found


def test_typos_are_answered_by_the_right_name() -> None:
    """At least 95 of 100: keys in files, and options."""
    right = wrong = 0
    sections = {PPO: "model.init_args", ENV: "model.init_args.env", TRAINER: "trainer"}
    for path, section in sections.items():
        for typo, name in typos(argument_names(signature_of(path)), 125):
            data = {typo: 1}
            for part in reversed(section.split(".")):
                data = {part: data}  # type: ignore[dict-item]
            data.get("model", {}).update(class_path="PPO")  # type: ignore[attr-defined]
            document = parse_document("a: 1", "x.yaml")
            document.data = data
            option = f"{section.replace('.init_args', '')}.{typo}"
            for check in (
                lambda d=document: check_document(d),
                lambda o=option: check_option(o, "1", PPO),
            ):
                with pytest.raises(ConfigError) as caught:
                    check()
                hit = re.search(rf"did you mean '[-\w.]*?\b{name}'", str(caught.value))
                right, wrong = right + bool(hit), wrong + (not hit)
    assert right + wrong == 750
    assert right / (right + wrong) >= 0.95


def mutate(text: str, source: random.Random) -> str:
    """Return a text with a few letters or lines removed, doubled, exchanged or inserted."""
    for _ in range(source.randint(1, 4)):
        if source.random() < 0.5:
            at = source.randrange(len(text) + 1)
            text = (
                text[:at]
                + source.choice("\t\n :-[]{}&*!#'\"0aE.~\x00")
                + text[at + source.choice([0, 1]) :]
            )
        else:
            lines = text.split("\n")
            line = source.randrange(len(lines))
            lines[line : line + 1] = source.choice(
                [[], [lines[line]] * 2, ["  " + lines[line]], [lines[line][1:]]]
            )
            source.shuffle(lines) if source.random() < 0.1 else None
            text = "\n".join(lines)
    return text


def check_mutations(count: int) -> int:
    """Check mutated configurations; return how many were refused. Anything but ConfigError is raised."""
    source = random.Random(1)
    texts = [
        (configs_folder() / f"{name}.yaml").read_text() for name in ("ppo/cartpole", "dqn/cartpole")
    ]
    messages: list[str] = []
    for _ in range(count):
        try:
            check_document(parse_document(mutate(source.choice(texts), source), "x.yaml"))
        except ConfigError as error:
            messages.append(str(error))
    assert not any("\n" in message for message in messages)
    return len(messages)


def test_mutated_configurations_are_read_or_refused() -> None:
    before = set(sys.modules)
    refused = check_mutations(1_000)
    assert 200 < refused < 1_000
    assert not {
        name
        for name in set(sys.modules) - before
        if not name.startswith(("gymnasium", "lightning_rl"))
    }


@pytest.mark.slow
def test_many_mutated_configurations_are_read_or_refused() -> None:
    assert check_mutations(20_000) > 4_000


def test_names_of_own_options_and_commands_are_suggested(run: Run) -> None:
    hits = 0
    for typo, name in typos(list(OWN_OPTIONS), 50):
        hits += f"did you mean '{name}'" in run(typo).message
    assert hits >= 47


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module beside the user's files that says so when it is imported."""
    folder = tmp_path.parent / f"{tmp_path.name}_canary"
    folder.mkdir()
    (folder / "canary_cli.py").write_text("raise RuntimeError('the canary was imported')\n")
    monkeypatch.syspath_prepend(folder)
    return "canary_cli"


@pytest.mark.parametrize(
    "text",
    [
        "model: {class_path: canary_cli.Net}\n",
        MODEL + "    actor: {class_path: canary_cli.Net, init_args: {a: 1}}\n",
        MODEL + "    actor: canary_cli.Net\n",
        MODEL + "    env: canary_cli:Id-v0\n",
        MODEL + "    env: {id: 'canary_cli:Id-v0'}\n",
        ENV_YAML + "      imports: [canary_cli]\n",
        ENV_YAML + "      wrappers: [canary_cli.Wrap]\n",
        ENV_YAML + "      wrappers: [{class_path: canary_cli.Wrap}]\n",
        "trainer: {callbacks: [{class_path: canary_cli.C}]}\n",
        "trainer: {callbacks: canary_cli.C}\n",
        "trainer: {logger: {class_path: canary_cli.L}}\n",
        "trainer: {strategy: {class_path: canary_cli.S}}\n",
        "trainer: {plugins: [{class_path: canary_cli.P}]}\n",
        "trainer: {profiler: {class_path: canary_cli.P}}\n",
    ],
)
def test_a_class_outside_the_allow_list_is_not_imported(text: str, run: Run, canary: str) -> None:
    Path("x.yaml").write_text(text)
    outcome = run("fit", "--config", "x.yaml")
    assert outcome.code == 2
    assert "allow-list" in outcome.message
    assert "--trust canary_cli" in outcome.message
    assert canary not in sys.modules


@pytest.mark.parametrize(
    "words",
    [
        "--model canary_cli.Net",
        "--model.actor canary_cli.Net",
        "--model.actor={class_path: canary_cli.Net}",
        "--model.env canary_cli:Id-v0",
        "--model.env.id canary_cli:Id-v0",
        "--model.env.imports=[canary_cli]",
        "--model.env.wrappers=[canary_cli.Wrap]",
        "--trainer.callbacks canary_cli.C",
        "--trainer.callbacks+=canary_cli.C",
        "--trainer.logger canary_cli.L",
    ],
)
def test_nor_by_an_option(words: str, run: Run, canary: str) -> None:
    outcome = run("fit", *([words] if "=" in words else words.split()))
    assert outcome.code == 2
    assert "allow-list" in outcome.message
    assert canary not in sys.modules

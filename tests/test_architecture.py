"""The house rules a reader relies on: layers, sizes, docstrings, nothing that runs foreign code."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lightning_rl"

# A module imports from its own folder and from layers above it in this list, never from beside it.
LAYERS = (
    {"types", "errors", "startup", "trust"},
    {"functional"},
    {"networks", "envs", "storage"},
    {"buffers"},
    {"experience"},
    {"algorithms"},
    {"callbacks", "loggers"},
    {"runs"},
    {"cli", "dashboard"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
ENTRY_POINTS = {"__init__", "__main__"}
NO_SIBLINGS = {"algorithms", "callbacks"}
ASSEMBLY = ("__init__", "defaults")  # they put a folder's modules together

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MIN_TEST_RATIO = 0.7
UNSAFE_MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "os.system", "yaml.load", "yaml.load_all", "yaml.unsafe_load"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    """`lightning_rl/envs/config.py` → `envs.config`; a package's `__init__` keeps that name."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


SOURCES = {module_name(path): path for path in python_files("lightning_rl")}
MODULES = sorted(set(SOURCES) - {"__main__"})
EVERY_FILE = [
    str(path.relative_to(ROOT))
    for path in python_files("lightning_rl", "tests", "benchmarks", "examples")
]


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def internal_imports(tree: ast.Module) -> set[str]:
    """Modules of this package that `tree` imports, in functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {resolve(node.module, alias.name) for alias in node.names}
    prefix = "lightning_rl."
    return {name.removeprefix(prefix) for name in found if name.startswith(prefix)}


def resolve(module: str, name: str) -> str:
    """What is imported: a module, or the module that holds the object `name`."""
    child = f"{module}.{name}"
    inside = child.removeprefix("lightning_rl.")
    if module == "lightning_rl" or inside in SOURCES or f"{inside}.__init__" in SOURCES:
        return child
    return module


def dotted(node: ast.expr) -> str:
    """`torch.load` for the expression `torch.load`, empty for anything more than names and dots."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def unsafe_code(tree: ast.Module) -> list[str]:
    """What in `tree` could run code from a file or a string, as `line: reason`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        found += [f"{node.lineno}: import {name}" for name in names if name in UNSAFE_MODULES]
        if isinstance(node, ast.Call):
            found += [f"{node.lineno}: {reason}" for reason in unsafe_call(node)]
    return found


def unsafe_call(call: ast.Call) -> Iterator[str]:
    name = dotted(call.func)
    keywords = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
    if name in UNSAFE_CALLS:
        yield name
    if name == "torch.load" and keywords.get("weights_only") is not True:
        yield "torch.load without weights_only=True"
    for keyword in ("shell", "allow_pickle"):
        if keywords.get(keyword):
            yield f"{keyword}=True"


def undocumented(module: ModuleType) -> Iterator[str]:
    """Public classes, functions and methods of `module` without a docstring, own or inherited."""
    for name, value in vars(module).items():
        own = getattr(value, "__module__", None) == module.__name__
        if (
            name.startswith("_")
            or not own
            or not (inspect.isclass(value) or inspect.isroutine(value))
        ):
            continue
        if not inspect.getdoc(value):
            yield name
        if inspect.isclass(value):
            yield from (f"{name}.{method}" for method in undocumented_methods(value))


def undocumented_methods(cls: type) -> Iterator[str]:
    kinds = (property, classmethod, staticmethod, cached_property, FunctionType)
    for name, member in vars(cls).items():
        if not name.startswith("_") and isinstance(member, kinds):
            bound = getattr(cls, name)
            if not inspect.getdoc(bound):
                yield name


def code_lines(paths: list[Path]) -> int:
    return sum(bool(line.strip()) for path in paths for line in path.read_text().splitlines())


@pytest.mark.parametrize("module", MODULES)
def test_imports_are_absolute_and_follow_the_layers(module: str) -> None:
    tree = parse(SOURCES[module])
    relative = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]
    assert not relative, f"relative import in lines {relative}"

    own = module.split(".")[0]
    if own in ENTRY_POINTS:
        return
    assert own in RANK, f"{own} is no layer: add it to LAYERS"
    for imported in sorted(internal_imports(tree)):
        layer = imported.split(".")[0]
        if layer == "__version__":
            continue
        same_folder = layer == own or RANK[own] == RANK.get(layer) == 0
        assert same_folder or RANK.get(layer, len(RANK)) < RANK[own], f"{module} imports {imported}"
        if own in NO_SIBLINGS and layer == own and not module.endswith(ASSEMBLY):
            assert imported == f"{own}.base", f"{module} imports its sibling {imported}"


def test_imports_inside_a_folder_have_no_cycle() -> None:
    graph = {
        module: internal_imports(parse(path)) & set(SOURCES) for module, path in SOURCES.items()
    }
    finished: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way, module))
        if module not in finished:
            for imported in graph[module]:
                visit(imported, (*way, module))
            finished.add(module)

    for module in graph:
        visit(module, ())


def test_no_algorithm_derives_from_another() -> None:
    classes = {
        node.name: [dotted(base).split(".")[-1] for base in node.bases]
        for module in MODULES
        if module.startswith("algorithms.")
        for node in ast.walk(parse(SOURCES[module]))
        if isinstance(node, ast.ClassDef)
    }
    siblings = set(classes) - {"Algorithm"}
    derived = {name: bases for name, bases in classes.items() if siblings & set(bases)}
    assert not derived


@pytest.mark.parametrize("name", EVERY_FILE)
def test_files_and_functions_are_short(name: str) -> None:
    path = ROOT / name
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES
    lengths = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(parse(path))
        if isinstance(node, Function)
    }
    too_long = {function: n for function, n in lengths.items() if n > MAX_FUNCTION_LINES}
    assert not too_long, f"more than {MAX_FUNCTION_LINES} lines: {too_long}"


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_a_docstring(module: str) -> None:
    imported = importlib.import_module(f"lightning_rl.{module}".removesuffix(".__init__"))
    assert imported.__doc__, "the module has no docstring"
    assert not list(undocumented(imported))


@pytest.mark.parametrize("module", MODULES)
def test_nothing_runs_code_from_files_or_strings(module: str) -> None:
    assert not unsafe_code(parse(SOURCES[module]))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import loads",
        "def f():\n    import shelve",
        "eval('1')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text, Loader=Loader)",
        "subprocess.run('ls', shell=True)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_the_gate_sees_unsafe_code(source: str) -> None:
    assert unsafe_code(ast.parse(source))


@pytest.mark.parametrize(
    "source", ["agent.eval()", "torch.load(path, weights_only=True)", "yaml.safe_load(text)"]
)
def test_the_gate_lets_safe_code_pass(source: str) -> None:
    assert not unsafe_code(ast.parse(source))


def test_imports_count_wherever_they_stand() -> None:
    source = """
        if TYPE_CHECKING:
            from lightning_rl.runs import trainer
        def f():
            import lightning_rl.cli.main
        from lightning_rl.errors import ConfigError
    """
    lines = [line[8:] for line in source.splitlines()]
    assert internal_imports(ast.parse("\n".join(lines))) >= {"errors", "cli.main"}


def test_there_are_enough_tests() -> None:
    ratio = code_lines(python_files("tests")) / code_lines(python_files("lightning_rl"))
    assert ratio >= MIN_TEST_RATIO, f"{ratio:.2f} lines of test per line of source"

"""What a class accepts, read from its source text without importing it.

Importing torch and Lightning takes seconds; a misspelt key should not. Reading the text also means
that a class named in a configuration is never executed before the allow-list has been asked. What
cannot be told from the text (decorators that change signatures, classes made at run time) is left
unknown here and is checked by jsonargparse later.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_MAX_HOPS = 12  # re-exports and base classes followed before giving up
_MISSING = object()


@dataclass(frozen=True)
class Scope:
    """One module's text: where names in an annotation are looked up."""

    module: str
    tree: ast.Module


@dataclass(frozen=True)
class Parameter:
    """One accepted argument: its name and its annotation as text (None when there is none)."""

    name: str
    annotation: ast.expr | None
    scope: Scope

    @property
    def expected(self) -> str:
        """The type, as the source spells it."""
        return ast.unparse(self.annotation) if self.annotation else "anything"

    def accept(self, value: Any) -> tuple[bool, Any]:
        """Tell whether `value` fits, and return it; where only an int fits, 1e6 is made one."""
        if _matches(self.annotation, value, self.scope):
            return True, value
        whole = int(value) if isinstance(value, float) and value.is_integer() else None
        if whole is not None and _matches(self.annotation, whole, self.scope):
            return True, whole
        return False, value


@dataclass(frozen=True)
class Signature:
    """The arguments of a class, `complete` when no others can be accepted."""

    path: str
    parameters: dict[str, Parameter]
    complete: bool


@dataclass(frozen=True)
class _Class:
    node: ast.ClassDef
    scope: Scope


def signature_of(path: str) -> Signature | None:
    """Return the constructor arguments of a class, or None when its source does not tell."""
    found = _find(path)
    if found is None:
        return None
    parameters, complete = _parameters(found, _MAX_HOPS)
    return Signature(path, parameters, complete)


def class_exists(path: str) -> bool:
    """Tell whether the source of `path` shows such a class."""
    return _find(path) is not None


def module_exists(path: str) -> bool:
    """Tell whether there is a source file for the module `path`."""
    return _module_file(path) is not None


def public_classes(package: str) -> dict[str, str]:
    """Return name → full path of the public classes defined in a package and its modules."""
    found: dict[str, str] = {}
    file = _module_file(package)
    if file is None:
        return found
    modules = [package]
    if file.name == "__init__.py":
        modules += [f"{package}.{source.stem}" for source in sorted(file.parent.glob("[!_]*.py"))]
    for module in modules:
        scope = _scope(module)
        for node in scope.tree.body if scope else ():
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, f"{module}.{node.name}")
    return found


def bases_of(path: str) -> list[str]:
    """Return the last names of the classes that `path` derives from directly."""
    found = _find(path)
    return [_dotted(base).rsplit(".", 1)[-1] for base in found.node.bases] if found else []


def docstring_of(path: str) -> str:
    """Return the first line of a class's docstring."""
    found = _find(path)
    text = ast.get_docstring(found.node) if found else None
    return text.splitlines()[0] if text else ""


def argument_help(path: str, name: str) -> str:
    """Return what a class's docstring, or its base's, says about one argument."""
    found = _find(path)
    for _ in range(_MAX_HOPS):
        if found is None:
            break
        init = _constructor(found.node)
        for node in (found.node, init):
            text = (ast.get_docstring(node) if node else None) or ""
            match = re.search(rf"^(\s*)\*{{0,2}}{name}( \(.*?\))?: *(.*(?:\n\1\s+.*)*)", text, re.M)
            if match:
                return " ".join(match[3].split())
        found = _base(found, _MAX_HOPS)
    return ""


# --- finding a class ---


@cache
def _module_file(module: str) -> Path | None:
    """Return the source file of a module; nothing is imported, not even its parents."""
    top, *rest = module.split(".")
    if top in sys.stdlib_module_names:
        return None
    try:
        spec = importlib.util.find_spec(top)
    except (ValueError, ImportError):
        return None
    if spec is None or spec.origin is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        base = Path(folder).joinpath(*rest)
        for candidate in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if candidate.is_file():
                return candidate
    return None


@cache
def _scope(module: str) -> Scope | None:
    file = _module_file(module)
    if file is None:
        return None
    try:
        return Scope(module, ast.parse(file.read_text(encoding="utf-8")))
    except (SyntaxError, ValueError, OSError):
        return None


def _find(path: str, hops: int = _MAX_HOPS) -> _Class | None:
    """Find the text of the class that a full path names, through re-exports."""
    module, _, name = path.rpartition(".")
    scope = _scope(module) if module else None
    return _find_in(scope, name, hops) if scope else None


def _find_in(scope: Scope, name: str, hops: int) -> _Class | None:
    for node in _statements(scope.tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _Class(node, scope)
    if not hops:
        return None
    target = _imported(scope, name)
    if target:
        return _find(target, hops - 1)
    starred = (
        _find(f"{_absolute(scope, node)}.{name}", hops - 1)
        for node in _statements(scope.tree)
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
    )
    return next((found for found in starred if found), None)


def _imported(scope: Scope, name: str) -> str | None:
    """Return the full path of what `name` is bound to by an import statement of the module."""
    for node in _statements(scope.tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return f"{_absolute(scope, node)}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return alias.name
    return None


def _absolute(scope: Scope, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    file = _module_file(scope.module)
    parts = scope.module.split(".")
    is_package = file is not None and file.name == "__init__.py"
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the module's statements, those under `if TYPE_CHECKING` and `try` included."""
    for node in tree.body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from node.body


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Subscript):
        return _dotted(node.value)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


# --- reading its arguments ---


def _parameters(cls: _Class, hops: int) -> tuple[dict[str, Parameter], bool]:
    """Return the arguments by name, and whether these are all."""
    init = _constructor(cls.node)
    if init is not None:
        arguments = [*init.args.posonlyargs, *init.args.args, *init.args.kwonlyargs]
        own = {
            a.arg: Parameter(a.arg, a.annotation, cls.scope) for a in arguments if a.arg != "self"
        }
        if init.args.kwarg is None:
            return own, True
        inherited, complete = _inherited(cls, hops)
        return {**inherited, **own}, complete
    inherited, complete = _inherited(cls, hops)
    if any(_dotted(_called(d)).endswith("dataclass") for d in cls.node.decorator_list):
        fields = [n for n in cls.node.body if isinstance(n, ast.AnnAssign)]
        own = {
            n.target.id: Parameter(n.target.id, n.annotation, cls.scope)
            for n in fields
            if isinstance(n.target, ast.Name)
        }
        return {**inherited, **own}, complete
    return inherited, complete


def _constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    methods = (n for n in node.body if isinstance(n, ast.FunctionDef))
    return next((method for method in methods if method.name == "__init__"), None)


def _called(node: ast.expr) -> ast.expr:
    return node.func if isinstance(node, ast.Call) else node


def _inherited(cls: _Class, hops: int) -> tuple[dict[str, Parameter], bool]:
    """Return the first base class's arguments; a class without one has none."""
    if not cls.node.bases:
        return {}, True
    base = _base(cls, hops)
    return _parameters(base, hops - 1) if base else ({}, False)


def _base(cls: _Class, hops: int) -> _Class | None:
    head, _, rest = _dotted(cls.node.bases[0]).partition(".") if cls.node.bases else ("", "", "")
    if not head or not hops:
        return None
    if rest:
        return _find(f"{_imported(cls.scope, head) or head}.{rest}", hops - 1)
    return _find_in(cls.scope, head, hops - 1)


# --- types ---

_SCALARS: dict[str, Any] = {"int": int, "float": (int, float), "str": str, "bool": bool}
_LISTS = {"list", "List", "Sequence", "Iterable", "Collection"}
_MAPPINGS = {"dict", "Dict", "Mapping"}
_UNIONS = {"Union", "Optional"}


def _matches(annotation: ast.expr | None, value: Any, scope: Scope, hops: int = _MAX_HOPS) -> bool:
    """Tell whether a plain value fits an annotation; what is not understood fits."""
    if annotation is None or not hops:
        return True
    if isinstance(annotation, ast.Constant):
        return _matches_constant(annotation, value, scope, hops)
    if isinstance(annotation, ast.BinOp):
        return any(_matches(a, value, scope, hops) for a in (annotation.left, annotation.right))
    name = _dotted(annotation).rsplit(".", 1)[-1]
    if isinstance(annotation, ast.Subscript):
        return _matches_generic(name, annotation.slice, value, scope, hops)
    if name in _SCALARS:
        return isinstance(value, _SCALARS[name]) and (name == "bool" or not isinstance(value, bool))
    if name in _LISTS or name == "tuple":
        return isinstance(value, list)
    if name in _MAPPINGS:
        return isinstance(value, dict)
    alias = _alias(scope, name)
    return _matches(alias[0], value, alias[1], hops - 1) if alias else True


def _matches_constant(annotation: ast.Constant, value: Any, scope: Scope, hops: int) -> bool:
    """Match `None`, or an annotation written as a string."""
    if not isinstance(annotation.value, str):
        return value is annotation.value
    try:
        return _matches(ast.parse(annotation.value, mode="eval").body, value, scope, hops - 1)
    except SyntaxError:
        return True


def _matches_generic(name: str, inner: ast.expr, value: Any, scope: Scope, hops: int) -> bool:
    choices = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if name in _UNIONS:
        fits_none = name == "Optional" and value is None
        return fits_none or any(_matches(choice, value, scope, hops) for choice in choices)
    if name == "Literal":
        literals = [c.value for c in choices if isinstance(c, ast.Constant)]
        return any(type(value) is type(literal) and value == literal for literal in literals)
    if name in _LISTS or name in ("tuple", "Tuple"):
        items = isinstance(value, list)
        return items and (
            name.lower() == "tuple" or all(_matches(inner, v, scope, hops) for v in value)
        )
    return isinstance(value, dict) if name in _MAPPINGS else True


def _alias(scope: Scope, name: str) -> tuple[ast.expr, Scope] | None:
    """Return the value of a type alias (`ActionMode = Literal[...]`) and its module."""
    for node in _statements(scope.tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if name in names and isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            return node.value, scope
    module, _, original = (_imported(scope, name) or "").rpartition(".")
    source = (
        _scope(module) if module and module.split(".")[0] not in sys.stdlib_module_names else None
    )
    return _alias(source, original) if source and source is not scope else None

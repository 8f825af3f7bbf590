"""YAML is read as the user meant it, and every malformed file is refused with its line, at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lightning_rl.cli.yaml_check import MAX_BYTES, parse_document, parse_scalar, read_document
from lightning_rl.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-12", -12),
        ("1_000_000", 1_000_000),
        ("010", 10),
        ("0x1F", 31),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e-3", 0.001),
        ("1E6", 1_000_000.0),
        (".inf", float("inf")),
        ("true", True),
        ("Off", False),
        ("null", None),
        ("~", None),
        ("None", None),
        ("12:00:00", "12:00:00"),
        ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
        ("0x_", "0x_"),
        ("CartPole-v1", "CartPole-v1"),
    ],
)
def test_plain_scalars(text: str, value: Any) -> None:
    found = parse_scalar(text)
    assert found == value
    assert type(found) is type(value)
    assert parse_document(f"key: {text}", "f").data["key"] == value


def test_quoted_scalars_stay_text() -> None:
    document = parse_document("a: '1'\nb: \"true\"\nc: !!str 5\nd: |\n  1\n", "f")
    assert document.data == {"a": "1", "b": "true", "c": "5", "d": "1\n"}


def test_lines_of_keys_and_list_items() -> None:
    document = parse_document("a:\n  b: 1\n  c:\n  - x\n  - {d: 2}\n", "f.yaml")
    assert document.lines[("a", "b")] == 2
    assert document.lines[("a", "c", "1", "d")] == 5
    assert str(document.error(("a", "c", "1", "d"), "wrong")) == "f.yaml:5: a.c.1.d: wrong"
    assert str(document.error(("a", "z"), "wrong")) == "f.yaml:1: a.z: wrong"


def test_anchors_and_merges_work() -> None:
    document = parse_document("a: &x {p: 1, q: 2}\nb:\n  <<: *x\n  q: 3\n", "f")
    assert document.data["b"] == {"p": 1, "q": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 2\n  c: 3\n", "f:4: b.c: duplicate key, already given in line 3"),
        ("a:\n\tb: 1\n", "f:2: YAML is indented by spaces, found a tab"),
        ("a: b: c\n", "f:1: not valid YAML: mapping values are not allowed"),
        ("a: [1\nb: 2\n", "f:2: not valid YAML"),
        ("a: 'b\n", "not valid YAML"),
        ("- 1\n", "f:1: expected keys such as 'model:' and 'trainer:', got a list"),
        ("word\n", "got a single value"),
        ("", "got nothing"),
        ("# only a comment\n", "got nothing"),
        ("a: 1\n---\nb: 2\n", "f:3: expected one YAML document, got 2"),
        ("a: *x\n", "f:1: not valid YAML"),
        ("1: 2\n", "f:1: a key must be a text, got 1"),
        ("[a]: 2\n", "f:1: a key must be a text"),
        ("a: !!python/object/apply:os.system [ls]\n", "!!python/object/apply:os.system is not all"),
        ("a: !!python/name:os.system\n", "!!python/name:os.system is not allowed"),
        ("a: !custom 1\n", "f:1: a: the tag !custom is not allowed"),
        ("a: !!binary aGk=\n", "the tag !!binary is not allowed"),
        ("a: 1\x00\n", "not valid YAML"),
        ("a: &a [*a]\n", "aliases (*name) expand to more"),
        ("%YAML 9.9\n---\na: 1\n", "not valid YAML"),
    ],
)
def test_malformed_text_is_one_line_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_document(text, "f")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def alias_bomb() -> str:
    names = "abcdefghi"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    pairs = zip(names[1:], names, strict=False)
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for new, old in pairs]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (alias_bomb(), "aliases"),
        ("[" * 20_000, "nested more than 100 levels"),
        ("{a: " * 20_000, "nested more than 100 levels"),
        ("\n".join(f"k{i}: {i}" for i in range(60_000)), "more than 10,000 values"),
        ("a: &a\n  b: 1\n" + "".join(f"k{i}: *a\n" for i in range(20_000)), "more than"),
    ],
)
def test_bombs_are_refused_at_once(text: str, message: str) -> None:
    started = time.perf_counter()
    with pytest.raises(ConfigError, match=message):
        parse_document(text, "f")
    assert time.perf_counter() - started < 1.0  # 0.2 s on an idle machine


def test_a_large_file_is_not_even_read(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    with file.open("wb") as handle:
        handle.truncate(100 * MAX_BYTES)
    started = time.perf_counter()
    with pytest.raises(ConfigError, match="100,000,000 bytes is no configuration"):
        read_document(file)
    assert time.perf_counter() - started < 0.2


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_document(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match="not a text file in UTF-8"):
        read_document(tmp_path / "binary.yaml")
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_document(tmp_path / "bom.yaml").data == {"a": 1}


TEXTS = st.text(max_size=8).filter(lambda text: text not in ("none", "None"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", min_size=1), inner),
    max_leaves=10,
)


@pytest.mark.parametrize("text", ["NONE", "nOne", "tRue", "yEs", "falsE", "1.5x", "e"])
def test_words_that_pyyaml_writes_without_quotes_stay_texts(text: str) -> None:
    assert yaml.safe_dump({"a": text}) == f"a: {text}\n"
    assert parse_document(f"a: {text}\n", "f").data == {"a": text}


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), VALUES, min_size=1))
def test_what_pyyaml_writes_is_read_back(data: dict[str, Any]) -> None:
    assert parse_document(yaml.safe_dump(data), "f").data == data


@given(st.text(alphabet="ab:-[]{}&*!#|>'\"%@`,?\t\n \x00\ufeff<0", max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    message = ""
    try:
        parse_document(text, "f")
    except ConfigError as error:
        message = str(error)
    assert "\n" not in message

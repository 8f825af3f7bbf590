"""The map from promises to tests names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
# A name may be cut: `…::test_x` is in the file named before it, `…_of_y` ends a name.
CODE = re.compile(r"`(?:(tests/[\w/]+\.py)(?:::(\w+))?|…(?:::)?(\w+))`")


def test_every_test_that_the_page_names_exists() -> None:
    found, source = 0, ""
    for file, name, rest in CODE.findall(PAGE):
        if file:
            source = (ROOT / file).read_text(encoding="utf-8")
        wanted = name or rest
        if wanted:
            assert re.search(rf"def \w*{wanted}\(", source), f"{file} {wanted}"
        found += 1
    assert found > 50


def test_every_promise_has_a_row() -> None:
    letters = set(re.findall(r"^\| ([A-Z]\d) \|", PAGE, re.MULTILINE))
    wanted = (
        "A1 A2 A3 A4 A5 A7 B1 B2 B3 B4 B5 B7 B8 C5 D1 D2 E1 E2 E3 E4 F1 F2 F3 F4 F5 F6 "
        "G1 H1 H2 H6 H7"
    )
    assert letters == set(wanted.split())

"""jsonargparse's pages become one line with the key, the cause and the nearest name."""

from __future__ import annotations

import pytest

from lightning_rl.cli.messages import one_line

UNION = """Parser key "trainer.callbacks":
  Does not validate against any of the Union subtypes
  Subtypes: [list[Callback], <class 'lightning.pytorch.callbacks.callback.Callback'>]
  Errors:
    - Problem with given class_path 'lightning.pytorch.callbacks.EarlyStopping':
        {problem}
    - Problem with given class_path 'lightning.Callback':
        Importing 'lightning.Callback' is not allowed, denied by the '*' entry
    - Expected a <class 'NoneType'>
  Given value type: <class 'jsonargparse._util.NestedArg'>
  Given value: NestedArg(key='patienc', val='3')"""

NESTED = """Parser key "model":
  Does not validate against any of the Union subtypes
  Errors:
    - Problem with given class_path 'lightning_rl.algorithms.ppo.PPO':
        Parser key "gamma":
          Expected a <class 'float'>. Got value: high
    - Expected a <class 'NoneType'>"""


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            UNION.format(problem="Option 'patienc' is not accepted"),
            "trainer.callbacks.patienc: unknown key of EarlyStopping; did you mean 'patience'?",
        ),
        (
            UNION.format(problem="the following arguments are required: monitor"),
            "trainer.callbacks: the following arguments are required: monitor",
        ),
        (NESTED, "model.gamma: Expected a <class 'float'>. Got value: high"),
        ("Unrecognized arguments: --nothing=1", "unknown option --nothing=1"),
        ("Something else\nwent wrong", "went wrong"),
        ("", "the configuration is not valid"),
    ],
)
def test_one_line(message: str, expected: str) -> None:
    assert one_line(message) == expected


def test_a_line_has_an_end() -> None:
    line = one_line("Expected " + "x" * 5000)
    assert len(line) == 300
    assert line.endswith("...")

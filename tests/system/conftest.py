import sys
from pathlib import Path

import pytest

# Where forked runs find the helper modules they share with the tests.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
pytest.register_assert_rewrite("tests.system.fork_server")

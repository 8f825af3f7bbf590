import sys
from pathlib import Path

import pytest

# Where forked runs find the helper modules they share with the tests.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


@pytest.fixture(scope="session", autouse=True)
def _warm_fork_server() -> None:
    """Import everything once, so that the duration of the first run is that of a run."""
    from tests.system import fork_server

    fork_server.warm_up()

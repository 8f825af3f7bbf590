import threading

import pytest

from lightning_rl.storage.background import Background


def test_a_call_runs_beside_its_caller():
    background, go = Background(), threading.Event()
    threads = []

    def call():
        assert go.wait(60)
        threads.append(threading.current_thread())

    background.start(call)
    assert threads == []
    go.set()
    background.wait()
    assert len(threads) == 1
    assert threads != [threading.current_thread()]
    background.wait()  # for nothing


def test_what_it_raises_comes_out_once_and_it_goes_on():
    background, done = Background(), []

    def refuse():
        raise OSError("full")

    background.start(refuse)
    with pytest.raises(OSError, match="full"):
        background.wait()
    background.wait()
    background.start(lambda: done.append(1))
    background.wait()
    assert done == [1]


def test_two_at_a_time_are_refused():
    background = Background()
    background.start(lambda: None)
    with pytest.raises(RuntimeError, match="wait for the call before"):
        background.start(lambda: None)
    background.wait()

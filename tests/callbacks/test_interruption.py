import os
import signal
from threading import Thread

import pytest

from lightning_rl import Trainer
from lightning_rl.callbacks import Callback
from lightning_rl.callbacks.interruption import SIGNALS, GracefulStop
from lightning_rl.errors import Interrupted
from lightning_rl.storage.sealed import load_sealed
from tests.callbacks import small_runs
from tests.callbacks.small_runs import ppo


class At(Callback):
    """Do something when a hook is called for the `number`-th time."""

    def __init__(self, hook, number, action):
        def count(*args):
            self.calls += 1
            if self.calls == number:
                action()

        self.calls = 0
        setattr(self, hook, count)

    @property
    def state_key(self):
        return f"At{id(self)}"


def send(number):
    return lambda: os.kill(os.getpid(), number)


def fit(tmp_path, *callbacks):
    agent = ppo(total_env_steps=512)
    return agent, small_runs.fit(tmp_path, agent, *callbacks)


@pytest.fixture(autouse=True)
def _handlers_of_the_program():
    """The usual handlers; after an exception Lightning itself leaves one behind."""
    usual = {signal.SIGINT: signal.default_int_handler}
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, usual.get(number, signal.SIG_DFL))
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)]
)
def test_a_signal_stops_before_the_next_step_with_everything_saved(tmp_path, number, code):
    with pytest.raises(Interrupted) as stop:
        fit(tmp_path, At("on_update_start", 3, send(number)))
    assert (stop.value.code, stop.value.signal) == (code, number.name)
    last = load_sealed(tmp_path / "e" / "r" / "checkpoints" / "last.ckpt")
    assert last["lightning_rl"]["env_steps"] == 3 * 32
    unit = last["lightning_rl"]["source"]["unit"]
    assert (unit["epoch"], unit["position"]) == (0, 0)


def test_the_handlers_of_the_program_answer_again_after_an_exception(tmp_path):
    def fail():
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, At("on_update_start", 2, fail))
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_handlers_are_put_back_after_training(tmp_path):
    seen = []
    fit(tmp_path, At("on_iteration_start", 1, lambda: seen.append(signal.getsignal(SIGNALS[0]))))
    assert seen[0].__func__ is GracefulStop._request
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_later_training_starts_without_the_old_request(tmp_path):
    agent, _ = fit(tmp_path / "a")
    agent.stop_requested = int(signal.SIGTERM)
    Trainer(
        run={"root": str(tmp_path / "b")},
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        eval_every_env_steps=0,
    ).fit(agent)
    assert agent.stop_requested == 0


def test_outside_the_main_thread_nothing_is_installed(tmp_path):
    before = [signal.getsignal(number) for number in SIGNALS]
    stop = GracefulStop()
    thread = Thread(target=stop.setup, args=(None, None, "fit"))
    thread.start()
    thread.join()
    assert [signal.getsignal(number) for number in SIGNALS] == before

"""Carrying calls to a tracker: order, outages, hanging, the end."""

from __future__ import annotations

import threading
import time

import pytest

from lightning_rl.loggers import courier as module
from lightning_rl.loggers.courier import Courier, NoExperiment


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(module, "ROWS_WAIT_S", 0.01)
    monkeypatch.setattr(module, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(module, "LAST_RETRY_S", 0.02)


def started(first=lambda: None, service=None, rows_at_once=1):
    take = service.take_rows if service is not None else (lambda rows: None)
    courier = Courier("Tracker", first, take, rows_at_once)
    courier.start()
    return courier


class Service:
    """Takes numbers, except while it is down or for those that it never takes."""

    def __init__(self, refused=()):
        self.received, self.sizes = [], []
        self.down = False
        self.refused = refused

    def take(self, number):
        if self.down or number in self.refused:
            raise ConnectionError(f"no route to http://me:secret@host for {number}")
        self.received.append(number)

    def take_rows(self, rows):
        if any(self.down or row in self.refused for row in rows):
            self.take(next(row for row in rows if self.down or row in self.refused))
        self.sizes.append(len(rows))
        self.received += rows


def test_calls_are_made_in_order_on_another_thread():
    service, threads = Service(), set()
    courier = started(lambda: threads.add(threading.current_thread()), service)
    for number in range(100):
        courier.send_row(number)
    assert courier.close(10.0)
    assert service.received == list(range(100))
    assert threads != {threading.current_thread()}
    assert not courier.is_current_thread


def test_rows_wait_for_each_other_and_calls_between_them_keep_their_place(monkeypatch):
    monkeypatch.setattr(module, "ROWS_WAIT_S", 60.0)
    service = Service()
    courier = started(service=service, rows_at_once=4)
    assert courier.opened.wait(10.0)
    for number in range(6):
        courier.send_row(number)
    courier.send(lambda: service.take("kept back"), hurry=False)
    for number in range(6, 9):
        courier.send_row(number)
    assert service.received == []
    courier.hurry()
    _until(lambda: len(service.received) == 10)
    assert service.received == [*range(6), "kept back", 6, 7, 8]
    assert service.sizes == [4, 2, 3]
    courier.send_row(9)
    courier.send(lambda: service.take("now"))
    _until(lambda: service.received[-1] == "now")
    courier.send_row(10)
    assert courier.close(10.0)
    assert service.received[-3:] == [9, "now", 10]


def test_a_row_is_delivered_in_a_while_without_being_asked_for():
    service = Service()
    courier = started(service=service)
    courier.send_row(1)
    _until(lambda: service.received == [1])
    assert courier.rows == 1
    assert courier.close(10.0)


def _until(reached):
    deadline = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_outage_delays_and_loses_nothing_and_is_said_once(caplog):
    service = Service()
    courier = started(service=service)
    service.down = True
    for number in range(50):
        courier.send_row(number)
        time.sleep(0.002)
    assert service.received == []
    service.down = False
    assert courier.close(10.0)
    assert service.received == list(range(50))
    assert caplog.text.count("Training goes on") == 1
    assert "http://***@host" in caplog.text
    assert "secret" not in caplog.text


def test_nothing_is_sent_before_the_first_call_has_worked():
    service, openings = Service(), []

    def open_late():
        openings.append(len(service.received))
        if len(openings) < 6:
            raise ConnectionError("not yet")

    courier = started(open_late)
    courier.send(lambda: service.take(1))
    assert courier.opened.wait(10.0)
    assert courier.close(10.0)
    assert openings == [0] * 6
    assert service.received == [1]


@pytest.mark.parametrize("rows_at_once", [1, 4])
def test_a_call_that_is_itself_at_fault_is_given_up(caplog, rows_at_once):
    service = Service(refused=[3])
    courier = started(service=service, rows_at_once=rows_at_once)
    for number in range(6):
        courier.send_row(number)
    assert not courier.close(10.0)
    assert service.received == [0, 1, 2, 4, 5]
    assert "1 calls to Tracker were not delivered" in caplog.text


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), AssertionError("odd")])
def test_no_error_ends_the_thread(error):
    service = Service()
    pending = [error]

    def fail_once():
        if pending:
            raise pending.pop()
        service.take(0)

    courier = started()
    courier.send(fail_once)
    assert courier.close(10.0)
    assert service.received == [0]


def test_a_call_that_hangs_holds_up_nobody_and_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(module, "SLOW_CALL_S", 0.05)
    released = threading.Event()
    courier = started()
    courier.send(released.wait)
    began = time.perf_counter()
    for _ in range(20):
        courier.send_row(1)
        time.sleep(0.01)
    assert not courier.close(0.2)
    assert time.perf_counter() - began < 5.0
    assert caplog.text.count("a call takes longer than 0.05 s") == 1
    assert "21 calls to Tracker were not delivered" in caplog.text
    released.set()
    courier._thread.join(10.0)
    assert not courier._thread.is_alive()


def test_a_service_that_never_answers_is_given_up_in_time():
    service = Service()
    service.down = True
    courier = started(lambda: service.take(0))
    courier.send(lambda: service.take(1))
    began = time.perf_counter()
    assert not courier.close(0.1)
    assert time.perf_counter() - began < 5.0
    courier._thread.join(10.0)
    assert not courier._thread.is_alive()
    courier.send(lambda: service.take(2))  # nobody is there any more, and nobody minds


def test_the_queue_is_bounded_by_thinning_rows_out(monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING_CALLS", 16)
    service, released = Service(), threading.Event()
    courier = started(released.wait, service)
    courier.send(lambda: service.take("config"))
    for number in range(200):
        courier.send_row(number)
        assert len(courier._waiting) <= 17
    courier.send(lambda: service.take("end"))
    released.set()
    courier.close(10.0)
    assert service.received[0] == "config"
    assert service.received[-1] == "end"
    rows = service.received[1:-1]
    assert rows == sorted(rows)
    assert rows[0] < 40  # the whole length of the curve is there
    assert rows[-1] == 199
    assert courier.dropped == 200 - len(rows)


def test_no_experiment_takes_everything():
    experiment = NoExperiment()
    experiment.add_scalar("a", 1.0, global_step=3)
    experiment["config"] = {"a": 1}
    assert experiment["config"].update(b=2) is None


def test_what_is_left_behind_is_known_until_it_ends():
    released = threading.Event()
    courier = started()
    courier.send(released.wait)
    assert not courier.close(0.05)
    assert module.left_behind()
    released.set()
    courier._thread.join(10.0)
    assert courier._thread not in [t for t in module._abandoned if t.is_alive()]

"""Limits of bandwidth: kept, shared fairly, free where there is none, and left at once on a stop."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from builder.cloud.transfer import Limiter, Throttle
from builder.cloud.transfer.body import FileBody, StoppedError
from tests.unit.cloud_world import provider, wait_for

KB = 1000
#: What may be caught up, in seconds of bandwidth.
BURST = 0.25


class Turns:
    """One thread that sends as a throttle allows, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 100.0
        self.event = threading.Event()
        # The event's `wait` is the only place where a throttle waits.
        self.event.wait = self._wait  # type: ignore[method-assign]

    def clock(self) -> float:
        return self.now

    def _wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.now += timeout
        return self.event.is_set()

    def send(self, throttle: Throttle, *blocks: int) -> float:
        """Seconds that sending these takes."""
        begun = self.now
        for block in blocks:
            throttle.wait(block, self.event)
        return self.now - begun


def test_a_limit_is_kept_and_used_up() -> None:
    turns = Turns()
    throttle = Limiter(None, clock=turns.clock).of(provider(bandwidth=100 * KB))

    assert turns.send(throttle, *[10 * KB] * 100) == pytest.approx(10.0, abs=BURST + 0.2)


def test_without_a_limit_nobody_waits() -> None:
    turns = Turns()

    assert turns.send(Limiter(None, clock=turns.clock).of(provider()), *[1 << 30] * 10) == 0.0


def test_the_lower_of_two_limits_counts() -> None:
    turns = Turns()
    limiter = Limiter(50 * KB, clock=turns.clock)

    assert turns.send(limiter.of(provider(bandwidth=100 * KB)), *[10 * KB] * 50) == pytest.approx(
        10.0, abs=0.5
    )
    turns.now += 10.0
    slow = limiter.of(provider("slow", bandwidth=10 * KB))
    assert turns.send(slow, *[10 * KB] * 10) == pytest.approx(10.0, abs=1.5)


def test_all_uploads_to_a_provider_share_its_limit() -> None:
    turns = Turns()
    limiter = Limiter(None, clock=turns.clock)
    one, other = (limiter.of(provider(bandwidth=100 * KB)) for _ in range(2))

    seconds = sum(turns.send(each, 10 * KB) for _ in range(50) for each in (one, other))

    assert seconds == pytest.approx(10.0, abs=BURST + 0.2)


def test_a_provider_s_limit_is_not_another_s() -> None:
    turns = Turns()
    limiter = Limiter(None, clock=turns.clock)
    turns.send(limiter.of(provider("slow", bandwidth=1 * KB)), 100 * KB, 100 * KB)

    assert turns.send(limiter.of(provider("fast", bandwidth=1000 * KB)), *[10 * KB] * 10) < 0.2


def test_what_was_not_used_is_not_saved_up() -> None:
    turns = Turns()
    throttle = Limiter(None, clock=turns.clock).of(provider(bandwidth=100 * KB))
    turns.now += 3600.0

    assert turns.send(throttle, *[10 * KB] * 100) == pytest.approx(10.0, abs=BURST + 0.2)


def test_a_new_limit_holds_at_once() -> None:
    turns = Turns()
    limiter = Limiter(10 * KB, clock=turns.clock)
    throttle = limiter.of(provider())
    turns.send(throttle, 100 * KB, 100 * KB)

    limiter.set_total(1000 * KB)
    assert turns.send(throttle, *[100 * KB] * 10) == pytest.approx(1.0, abs=0.5)
    limiter.of(provider(bandwidth=10 * KB))  # the configuration was read again
    assert turns.send(throttle, *[10 * KB] * 10) == pytest.approx(10.0, abs=1.5)
    limiter.set_total(None)
    limiter.of(provider())
    assert turns.send(throttle, 1 << 30) == 0.0


def test_threads_get_equal_shares() -> None:
    limiter = Limiter(2_000 * KB)
    counts = [0] * 4
    stop = threading.Event()
    limiter.of(provider()).wait(int(2_000 * KB * BURST), stop)  # whoever comes first may take that at once

    def work(number: int) -> None:
        throttle = limiter.of(provider(f"p{number}"))
        while not stop.is_set():
            throttle.wait(20 * KB, stop)
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    while sum(counts) < 80 and time.monotonic() < begun + 60:
        threading.Event().wait(0.01)
    stop.set()
    for thread in threads:
        thread.join(10.0)
    seconds = time.monotonic() - begun

    assert min(counts) >= 10  # of the 20 that would be just; threads don't begin at the same moment
    # Each thread may have counted one block more when it was stopped.
    assert (sum(counts) - len(counts)) * 20 * KB <= 2_000 * KB * (seconds + BURST + 0.1)


def test_whoever_waits_wakes_promptly_on_a_stop() -> None:
    throttle = Limiter(1 * KB).of(provider())
    throttle.wait(3600 * KB, threading.Event())  # it goes at once, and books the hour that follows
    stop, ended = threading.Event(), threading.Event()

    def work() -> None:
        throttle.wait(1, stop)
        ended.set()

    threading.Thread(target=work, daemon=True).start()
    assert not ended.wait(0.2)
    stop.set()
    assert ended.wait(5.0)


def test_a_turn_that_is_not_taken_is_free_for_others() -> None:
    turns = Turns()
    throttle = Limiter(None, clock=turns.clock).of(provider(bandwidth=10 * KB))
    turns.send(throttle, 10 * KB)
    stopped = threading.Event()
    stopped.set()

    for _ in range(100):
        throttle.wait(100 * KB, stopped)

    assert turns.send(throttle, 10 * KB) < 2.0


# -- the file under a limit ------------------------------------------------------------------------


def test_blocks_are_small_enough_to_keep_bytes_moving(tmp_path: Path) -> None:
    """A block of a megabyte takes minutes by a low limit: that would look like a stall."""
    (tmp_path / "file").write_bytes(b"x" * (2 << 20))

    def first_block(bandwidth: int | None) -> int:
        throttle = Limiter(None).of(provider(f"p{bandwidth}", bandwidth=bandwidth))
        with FileBody(tmp_path / "file", 2 << 20, throttle).closed_after() as body:
            return len(body.read(-1))

    assert [first_block(rate) for rate in (None, 1 << 30, 100 * KB, 1)] == [1 << 20, 1 << 20, 50 * KB, 4096]


def test_a_body_that_waits_for_its_turn_is_not_stalled_and_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100 * KB)
    throttle = Limiter(1 * KB).of(provider())
    throttle.wait(3600 * KB, threading.Event())
    body = FileBody(tmp_path / "file", 100 * KB, throttle)
    raised: list[BaseException] = []

    def read() -> None:
        with body.closed_after():
            try:
                body.read(4096)
            except StoppedError as error:
                raised.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    wait_for(lambda: body.waiting)
    body.stop()
    thread.join(5.0)

    assert len(raised) == 1
    assert not body.waiting
    assert body.sent == 0

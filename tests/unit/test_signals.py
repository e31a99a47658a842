"""Signals are heard, whichever thread the kernel hands them to, and only while somebody listens."""

from __future__ import annotations

import os
import signal
import threading

from builder import signals


def test_each_signal_calls_for_what_it_means() -> None:
    stopped, reloaded = threading.Event(), threading.Event()
    with signals.heard(on_stop=stopped.set, on_reload=reloaded.set):
        os.kill(os.getpid(), signal.SIGHUP)
        assert reloaded.wait(10) and not stopped.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.wait(10)


def test_a_signal_to_another_thread_is_heard_while_the_main_thread_waits() -> None:
    stopped, done = threading.Event(), threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        with signals.heard(on_stop=stopped.set, on_reload=lambda: None):
            assert other.native_id is not None
            signal.pthread_kill(other.ident or 0, signal.SIGTERM)
            assert stopped.wait(10)
    finally:
        done.set()
        other.join()


def test_afterwards_everything_is_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with signals.heard(on_stop=lambda: None, on_reload=lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before

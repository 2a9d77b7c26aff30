"""Ctrl-C waits for the end of a step; the handler that was there comes back."""

from __future__ import annotations

import signal
import threading

import pytest

from aigc_edge.train.interrupt import deferred_interrupt


def test_one_is_noted_a_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as pressed:
        assert not pressed()
        signal.raise_signal(signal.SIGINT)
        assert pressed()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_old_handler_comes_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="x"), deferred_interrupt():
        raise ValueError("x")
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_go_without() -> None:
    found: list[bool] = []

    def work() -> None:
        with deferred_interrupt() as pressed:
            found.append(pressed())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]

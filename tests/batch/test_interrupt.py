"""Ctrl-C comes once, when nothing is half done; a second one comes at once; other handlers stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tomoseg.batch.interrupt import DelayedInterrupt

# a thread that logs, while Ctrl-C is pressed in the middle of the main thread's own logging
LOGGING = """
import logging, os, signal, threading
from tomoseg.batch.interrupt import DelayedInterrupt

signal.signal(signal.SIGINT, signal.default_int_handler)
acquire = logging._acquireLock
def acquire_and_press():
    logging._acquireLock = acquire
    acquire()
    os.kill(os.getpid(), signal.SIGINT)
thread = threading.Thread(target=lambda: (ready.wait(), logging.getLogger("b").isEnabledFor(10)))
ready = threading.Event()
thread.start()
try:
    with DelayedInterrupt() as interrupt:
        logging._acquireLock = acquire_and_press
        logging.getLogger("a").isEnabledFor(10)
        interrupt.check()
except KeyboardInterrupt:
    print("interrupted", flush=True)
ready.set()
thread.join()
"""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def press(number: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def test_it_waits_for_the_next_check_and_comes_once() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), DelayedInterrupt() as interrupt:
        interrupt.check()
        press()
        steps.append("not interrupted")
        interrupt.check()
        steps.append("never")
    assert steps == ["not interrupted"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    interrupt.check()


def test_a_second_one_comes_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), DelayedInterrupt():
        press()
        press()
        pytest.fail("not interrupted")
    with pytest.raises(KeyboardInterrupt):
        press()


def test_one_after_the_last_check_is_not_lost() -> None:
    with pytest.raises(KeyboardInterrupt), DelayedInterrupt():
        press()


def test_an_error_goes_before_it() -> None:
    with pytest.raises(ValueError, match="first"), DelayedInterrupt():
        press()
        raise ValueError("first")


def test_handlers_of_others_and_other_threads_are_left_alone() -> None:
    pressed: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), DelayedInterrupt() as interrupt:
        press()
        interrupt.check()
        press(signal.SIGTERM)  # a service is stopped like this; `tomoseg watch` makes it a Ctrl-C
        interrupt.check()
    assert pressed == [signal.SIGINT]

    def elsewhere() -> None:
        with DelayedInterrupt() as interrupt:
            interrupt.check()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Python's logging has no such function any more")
def test_no_lock_of_pythons_logging_is_left_taken(tmp_path: Path) -> None:
    """By Ctrl-C in the very place where a batch once hung: all its threads waited for the lock of logging."""
    script = tmp_path / "script.py"
    script.write_text(LOGGING)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
    # without it, the thread waits for ever
    script.write_text(LOGGING.replace("with DelayedInterrupt() as interrupt:", "if True:"))
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, str(script)], capture_output=True, timeout=5)

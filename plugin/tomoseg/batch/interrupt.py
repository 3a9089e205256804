"""Ctrl-C at a moment at which nothing is half done."""

from __future__ import annotations

import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class DelayedInterrupt:
    """While it is open, Ctrl-C is raised by the next `check`, and not wherever the main thread happens to be.

    Python raises KeyboardInterrupt between any two of its instructions. Where that is between taking a lock and the
    `try` that gives it back, as in Python's own logging, all other threads wait for that lock for ever. A second Ctrl-C
    is still raised at once. Other threads, and other handlers of the signal, are not affected.
    """

    def __init__(self) -> None:
        self._asked = False
        self._replaced: list[signal.Signals] = []

    def __enter__(self) -> DelayedInterrupt:
        if threading.current_thread() is threading.main_thread():
            self._replaced = [one for one in SIGNALS if signal.getsignal(one) is signal.default_int_handler]
            for one in self._replaced:
                signal.signal(one, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.check()  # asked for since the last time
        self._restore()

    def check(self) -> None:
        """Raise KeyboardInterrupt if it was asked for since the last time."""
        if self._asked:
            self._restore()
            self._asked = False
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.check()
        self._asked = True

    def _restore(self) -> None:
        for one in self._replaced:
            signal.signal(one, signal.default_int_handler)
        self._replaced = []

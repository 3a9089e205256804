"""Keep warnings of libraries off the screen: drop them, or turn them into notes on the current scan."""

import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from tempfile import TemporaryFile
from typing import Any

from tomoseg.core.errors import shorten
from tomoseg.core.notes import take_note

MAX_NOTE_LENGTH = 200
STDERR_FD = 2
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")  # may be a value of the patient's
Listener = Callable[[str], None]

_lock = threading.Lock()
_inside = 0
_until_the_last_leaves = ExitStack()
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_call_handlers = logging.Logger.callHandlers


def suppress_warnings() -> AbstractContextManager[None]:
    """Drop Python's warnings, and log entries below an error."""
    return _heard_by(_drop)


def note_warnings() -> AbstractContextManager[None]:
    """Make notes (`take_note`) of Python's warnings and of log entries from the level of a warning on, in this thread.

    Example:
        >>> import warnings
        >>> from tomoseg.core.notes import collect_notes
        >>> from tomoseg.core.quiet import note_warnings
        >>> with collect_notes() as notes, note_warnings():
        ...     warnings.warn("odd spacing")
        >>> notes
        ['odd spacing']
    """
    return _heard_by(lambda message: take_note(QUOTED.sub("…", shorten(message, MAX_NOTE_LENGTH))))


def _drop(message: str) -> None:
    pass


def hear(message: str) -> bool:
    """Hand a library's message to the listener of this thread; return whether it must not reach the screen."""
    listener = _listener.get()
    if listener is not None:
        listener(message)
    return listener is not None or _inside > 0


@contextmanager
def _heard_by(listener: Listener) -> Iterator[None]:
    """Give a thread's messages to a listener; those of threads without one are dropped meanwhile.

    Warnings and logging have one state for the whole process. So the first thread that comes in saves it, and the last
    that leaves brings it back, in any order.
    """
    global _inside
    with _lock:
        if _inside == 0:
            _until_the_last_leaves.enter_context(warnings.catch_warnings())
            warnings.simplefilter("always")
            warnings.showwarning = _hear_warning
            _until_the_last_leaves.callback(setattr, logging.Logger, "callHandlers", logging.Logger.callHandlers)
            setattr(logging.Logger, "callHandlers", _hear_record)  # noqa: B010 - no assignment to a method for mypy
        _inside += 1
    outer = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(outer)
        with _lock:
            _inside -= 1
            if _inside == 0:
                _until_the_last_leaves.close()


def _hear_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    hear(str(message))


def _hear_record(logger: logging.Logger, record: logging.LogRecord) -> None:
    if record.levelno >= logging.ERROR and _listener.get() in (None, _drop):
        _call_handlers(logger, record)
    elif record.levelno >= logging.WARNING:  # nibabel has levels in between
        hear(record.getMessage())


@contextmanager
def native_output() -> Iterator[list[bytes]]:
    """Yield a list; its one member becomes the output of C libraries to standard error."""
    said = [b""]
    with TemporaryFile() as file:
        screen = os.dup(STDERR_FD)
        os.dup2(file.fileno(), STDERR_FD)
        try:
            yield said
        finally:
            os.dup2(screen, STDERR_FD)
            os.close(screen)
            file.seek(0)
            said[0] = file.read()

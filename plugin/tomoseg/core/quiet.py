"""Warnings that mean something to developers only, kept off the screen of somebody who segments."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_lock = threading.Lock()
_inside = 0
_until_the_last_leaves = ExitStack()


@contextmanager
def suppress_warnings() -> Iterator[None]:
    """Drop Python's warnings, and what is logged as a warning or less, in all threads.

    Warnings and logging have one state for the whole process. So the first thread that comes in saves it, and the last
    that leaves brings it back, whatever the order.
    """
    global _inside
    with _lock:
        if _inside == 0:
            _until_the_last_leaves.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            _until_the_last_leaves.callback(logging.disable, logging.root.manager.disable)
            logging.disable(logging.WARNING)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _until_the_last_leaves.close()

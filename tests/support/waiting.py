"""Waiting for an event, however long a busy machine takes."""

from __future__ import annotations

import time
from collections.abc import Callable

LIMIT_S = 120.0
LOOK_EVERY_S = 0.05


def wait_until(condition: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    """Return once a condition holds.

    Args:
        condition: looked at again and again.
        what: a name of the condition, for the message.
        limit_s: after that long it is a failure.
    """
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"waited {limit_s:.0f} s for {what}"
        time.sleep(LOOK_EVERY_S)

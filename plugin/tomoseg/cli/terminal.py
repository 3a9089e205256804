"""What is printed where."""

from __future__ import annotations

import sys

from rich.console import Console

UNWRAPPED_COLUMNS = 1000


def console() -> Console:
    """Return standard output; in a file or a pipe, a line is a line."""
    return Console(width=None if sys.stdout.isatty() else UNWRAPPED_COLUMNS)

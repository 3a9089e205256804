"""What is printed where."""

from __future__ import annotations

import sys

from rich.console import Console

UNWRAPPED_COLUMNS = 1000


def console() -> Console:
    """Return standard output; in a file or a pipe, a line is a line."""
    return Console(width=None if sys.stdout.isatty() else UNWRAPPED_COLUMNS)


def complain(message: str) -> None:
    """Print an error, as one line on standard error."""
    print(f"tomoseg: error: {message}", file=sys.stderr, flush=True)


def print_warning(message: str) -> None:
    """Print why a result may be wrong, as one line on standard error."""
    print(f"tomoseg: warning: {message}", file=sys.stderr, flush=True)


def print_note(message: str) -> None:
    """Print what is no error, and still worth a look, as one line on standard error."""
    print(f"tomoseg: note: {message}", file=sys.stderr, flush=True)

"""Messages to the user, one line each: notes, warnings and errors, printed on standard error or collected first."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tomoseg.core.errors import printable

_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)


@contextmanager
def collect_notes() -> Iterator[list[str]]:
    """Yield a list that holds what `take_note` is given meanwhile, in this thread, each line once.

    Example:
        >>> from tomoseg.core.notes import collect_notes, take_note
        >>> with collect_notes() as notes:
        ...     take_note("scans/link: skipped")
        >>> notes
        ['scans/link: skipped']
    """
    notes: list[str] = []
    outer = _collected.set(notes)
    try:
        yield notes
    finally:
        _collected.reset(outer)


def take_note(note: str) -> None:
    """Add a note for the current collector; without one, drop it."""
    notes = _collected.get()
    if notes is not None and note not in notes:
        notes.append(note)


def print_line(message: str) -> None:
    """Print a result on standard output, in one line."""
    print(printable(message), flush=True)


def print_json(text: str) -> None:
    """Print JSON on standard output; its texts may hold anything, which the escapes of JSON show."""
    shown = (one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text)
    print("".join(shown).rstrip("\n"), flush=True)


def print_note(message: str) -> None:
    """Print a note."""
    _print("note", message)


def print_warning(message: str) -> None:
    """Print why a result may be wrong."""
    _print("warning", message)


def print_error(message: str) -> None:
    """Print what failed."""
    _print("error", message)


def _print(level: str, message: str) -> None:
    print(f"tomoseg: {level}: {printable(message)}", file=sys.stderr, flush=True)

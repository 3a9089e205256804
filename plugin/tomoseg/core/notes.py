"""Messages to the user, one line each: notes, warnings and errors, printed on standard error or collected first."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from tomoseg.core.errors import printable

_as_json = False
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


def log_as_json() -> None:
    """Print lines and messages as JSON from now on, one object a line, as `log_line.schema.json` describes it."""
    global _as_json
    _as_json = True


def print_line(message: str) -> None:
    """Print a result on standard output, in one line."""
    print(_format("info", message) if _as_json else printable(message), flush=True)


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
    shown = _format(level, message) if _as_json else f"tomoseg: {level}: {printable(message)}"
    print(shown, file=sys.stderr, flush=True)


def _format(level: str, message: str) -> str:
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"schema_version": 1, "time": time, "level": level, "message": printable(message)})

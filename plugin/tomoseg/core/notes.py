"""Messages to the user on standard error, one line each: notes, warnings and errors."""

import sys


def print_note(message: str) -> None:
    """Print what is worth knowing."""
    _print("note", message)


def print_warning(message: str) -> None:
    """Print why a result may be wrong."""
    _print("warning", message)


def print_error(message: str) -> None:
    """Print what failed."""
    _print("error", message)


def _print(level: str, message: str) -> None:
    print(f"tomoseg: {level}: {message}", file=sys.stderr, flush=True)

"""Numbered folders `0001`, `0002`, …, each there whole or not at all."""

from pathlib import Path

from tomoseg.core.errors import OutputError, errors_as


def numbered_folders(parent: Path) -> dict[int, Path]:
    """Return the numbered folders in a folder by their numbers, which rise."""
    found = (path for path in parent.glob("[0-9][0-9][0-9][0-9]*") if path.name.isdecimal() and path.is_dir())
    return dict(sorted((int(path.name), path) for path in found))


def take_number(parent: Path, whole: Path) -> int:
    """Rename a finished folder to the next free number, and return that.

    Raises:
        OutputError: it cannot be renamed.
    """
    number = max(numbered_folders(parent), default=0) + 1
    while (parent / f"{number:04}").exists():  # of another kind
        number += 1
    with errors_as(OutputError, f"{parent}: cannot be written to", OSError):
        whole.rename(parent / f"{number:04}")
    return number

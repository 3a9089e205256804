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
    number = max(numbered_folders(parent), default=0)
    with errors_as(OutputError, f"{parent}: cannot be written to", OSError):
        while True:
            number += 1
            try:
                whole.rename(target := parent / f"{number:04}")
            except OSError:
                if not target.exists():  # another process took it in between
                    raise
            else:
                return number

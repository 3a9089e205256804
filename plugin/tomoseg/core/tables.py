"""Tables as CSV: those that are written, and those that are part of the package."""

import csv
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from tomoseg.core.files import UNENCODABLE, atomic_file

# Excel takes the wide forms of East Asia for the others
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]], *, private: bool = False) -> None:
    """Write a table, atomically.

    Args:
        path: the file.
        columns: their names, the first row.
        rows: a cell for each column.
        private: only the user may read it.

    Raises:
        OutputError: it cannot be written.
    """
    opening: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": UNENCODABLE}
    with atomic_file(path, private=private) as temporary, temporary.open("w", **opening) as file:
        writer = csv.writer(file)
        writer.writerow(map(_cell, columns))
        writer.writerows(map(_cell, row) for row in rows)


def _cell(value: object) -> object:
    """Return a cell that no spreadsheet takes for a formula: a text that begins as one gets a quote before it."""
    if isinstance(value, str) and value.startswith(FORMULA_STARTS):
        try:
            float(value)
        except ValueError:
            return f"'{value}"
    return value


def read_rows(package: str, name: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file that is part of a package, by the names of its columns."""
    return list(csv.DictReader(files(package).joinpath(name).read_text(encoding="utf-8").splitlines()))

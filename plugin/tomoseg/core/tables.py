"""Tables as CSV."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from tomoseg.core.files import UNENCODABLE, atomic_file


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table, atomically.

    Args:
        path: the file.
        columns: their names, the first row.
        rows: a cell for each column.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8", errors=UNENCODABLE) as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)

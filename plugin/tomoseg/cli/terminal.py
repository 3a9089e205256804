"""Print results on standard output; notes, warnings, errors and progress on standard error."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from tomoseg.core.errors import printable

# rich is imported where something is printed: it takes a tenth of a second
UNWRAPPED_COLUMNS = 1000  # columns
MAX_NAME_COLUMNS = 40  # of a name that is never broken
COLOURS = {"ok": "green", "bad": "red"}


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table with every cell in full: a path or a UID is of use only whole, and a name in one line.

    In a file or a pipe, a line is a line.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title)) if title else None, title_justify="left", show_header=any(columns))
    cells = list(rows)
    for index, name in enumerate(columns):
        is_name = not index and all(len(row[0]) <= MAX_NAME_COLUMNS for row in cells)
        table.add_column(name, overflow="fold", no_wrap=is_name)
    for row in cells:
        table.add_row(*(Text(printable(cell), COLOURS.get(cell, "")) for cell in row))
    Console(width=None if sys.stdout.isatty() else UNWRAPPED_COLUMNS).print(table)


@contextmanager
def status(text: str) -> Iterator[Callable[[object], None]]:
    """Show the current step on standard error if it is a terminal; yield a function that changes the text."""
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(text) as shown:
        yield lambda step: shown.update(escape(printable(str(step))))

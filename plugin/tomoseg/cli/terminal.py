"""Print results on standard output; notes, warnings, errors and progress on standard error."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from tomoseg.core.errors import printable

# rich is imported where something is printed: it takes a tenth of a second
PIPE_COLUMNS = 100  # of a table in a file or a pipe
COLOURS = {"ok": "green", "bad": "red"}


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table as wide as the terminal, with every cell in full; where there is room, words stay whole."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    cells = [["\n".join(map(printable, cell.split("\n"))) for cell in row] for row in rows]
    texts = ["\n".join(column) for column in zip(columns, *cells, strict=True)]
    widths = [max(map(cell_len, text.split("\n"))) for text in texts]
    words = [max(map(cell_len, text.split()), default=0) for text in texts]
    while sum(widths) + 3 * len(widths) > console.width and max(widths) > 1:
        # the widest that holds more than a word; the first column, the names, later than others
        widths[max(range(len(widths)), key=lambda one: (widths[one] > words[one], widths[one] / (2 - bool(one))))] -= 1
    table = Table(title=Text(printable(title)) if title else None, title_justify="left", show_header=any(columns))
    table.show_edge = False
    for name, width in zip(columns, widths, strict=True):
        table.add_column(name, overflow="fold", width=width)
    for row in cells:
        table.add_row(*(Text(cell, COLOURS.get(cell, "")) for cell in row))
    console.print(table)


@contextmanager
def status(text: str) -> Iterator[Callable[[object], None]]:
    """Show the current step on standard error if it is a terminal; yield a function that changes the text."""
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(text) as shown:
        yield lambda step: shown.update(escape(printable(str(step))))

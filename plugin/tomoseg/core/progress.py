"""Progress bars on a terminal; elsewhere, a line a minute."""

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 60.0


class ProgressBars:
    """Draws on standard error while it is open, where that is a terminal; otherwise prints a line a minute.

    Args:
        columns: columns between a bar and its times.
        hidden: draw nothing at all.
        recent_s: the time left is that of the progress in so many seconds.
    """

    def __init__(self, *columns: ProgressColumn, hidden: bool, recent_s: float) -> None:
        self._console = Console(stderr=True)
        self._hidden = hidden
        self._printed = time.monotonic()
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), *columns,
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            console=self._console, transient=True, disable=hidden or not self._console.is_terminal,
            speed_estimate_period=recent_s,
        )  # fmt: skip

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def tell(self, text: str) -> None:
        """Print a line."""
        self._printed = time.monotonic()
        if not self._hidden:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def tell_each_minute(self, text: str) -> None:
        """Print a line where there is no bar, if the last line is a minute old."""
        if not self._console.is_terminal and time.monotonic() - self._printed >= LINE_EVERY_S:
            self.tell(text)

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

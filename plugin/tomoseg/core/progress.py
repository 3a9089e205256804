"""Progress bars on a terminal."""

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressBars:
    """Draws on standard error while it is open, where that is a terminal; otherwise nothing.

    Args:
        columns: columns between a bar and its times.
        hidden: draw nothing at all.
        recent_s: the time left is that of the progress in so many seconds.
    """

    def __init__(self, *columns: ProgressColumn, hidden: bool, recent_s: float) -> None:
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), *columns,
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            console=self._console, transient=True, disable=hidden or not self._console.is_terminal,
            speed_estimate_period=recent_s,
        )  # fmt: skip

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

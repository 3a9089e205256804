"""A bar for the volume at hand: windows, and the time that is left."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class WindowProgress:
    """Draws on standard error while it is open, where that is a terminal; otherwise nothing.

    Args:
        hidden: draw nothing at all.
    """

    def __init__(self, hidden: bool) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("windows"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal)
        self._task = self._progress.add_task("", visible=False)
        self._input: Path | None = None

    def __enter__(self) -> WindowProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, scan: Path, done: int, total: int) -> None:
        """Draw that `done` of `total` windows of a scan are done."""
        if scan != self._input:
            self._input = scan
            self._progress.reset(self._task, total=total, description=escape(scan.name), visible=True)
        self._progress.update(self._task, completed=done, visible=done < total)

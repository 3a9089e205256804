"""Two bars: the batch, and the scan at hand."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tomoseg.report import CaseReport

RECENT_S = 600  # the time left is that of the scans of the last minutes; one may take half a minute


class BatchProgress:
    """Draws on standard error while it is open, where that is a terminal; otherwise nothing.

    Args:
        cases: number of scans.
        hidden: draw nothing at all.
    """

    def __init__(self, cases: int, hidden: bool) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(
            *columns,
            console=console,
            transient=True,
            disable=hidden or not console.is_terminal,
            speed_estimate_period=RECENT_S,
        )
        self._batch = self._progress.add_task("", total=cases, visible=cases > 1, unit="scans")
        self._scan = self._progress.add_task("", visible=False, unit="windows")
        self._input: Path | None = None
        self._failed = self._voxels = 0

    def __enter__(self) -> BatchProgress:
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
            self._progress.reset(self._scan, total=total, description=escape(scan.name), visible=True)
        self._progress.update(self._scan, completed=done, visible=done < total)

    def count(self, case: CaseReport) -> None:
        """Draw that a scan is done with."""
        self._failed += case.status == "failed"
        self._voxels += case.voxels
        told = [f"{self._voxels / 1e6:.0f} million voxels"] if self._voxels >= 1e6 else []
        told += [f"[red]{self._failed} failed[/]"] if self._failed else []
        self._progress.update(self._batch, advance=1, description=", ".join(told))

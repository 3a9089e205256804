"""Two bars: the batch, and the scan at hand."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tomoseg.report.records import CaseReport

SPEED_PERIOD_S = 600  # the time left is that of the scans of the last minutes; one may take half a minute


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
        self._on_terminal = console.is_terminal
        self._progress = Progress(
            *columns,
            console=console,
            transient=True,
            disable=hidden or not self._on_terminal,
            speed_estimate_period=SPEED_PERIOD_S,
        )
        self._batch = self._progress.add_task("", total=0, visible=False, unit="scans")
        self._scan = self._progress.add_task("", visible=False, unit="windows")
        self._input: Path | None = None
        self._cases = self._done = self._failed = self._voxels = 0
        self.expect(cases)

    def __enter__(self) -> BatchProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def expect(self, cases: int) -> None:
        """Draw that so many scans more are to come."""
        self._cases += cases
        self._progress.update(self._batch, total=self._cases, visible=self._cases > 1)

    @property
    def place(self) -> str:
        """Where in the batch the scan stands that was counted last, as "[3/40] "; nothing where a bar tells it."""
        return "" if self._cases < 2 or self._on_terminal else f"[{self._done}/{self._cases}] "

    def show(self, scan: Path, done: int, total: int) -> None:
        """Draw that `done` of `total` windows of a scan are done."""
        if scan != self._input:
            self._input = scan
            self._progress.reset(self._scan, total=total, description=escape(scan.name), visible=True)
        self._progress.update(self._scan, completed=done, visible=done < total)

    def count(self, case: CaseReport) -> None:
        """Draw that a scan is done with."""
        self._done += 1
        self._failed += case.status == "failed"
        self._voxels += case.voxels
        told = [f"{self._voxels / 1e6:.0f} million voxels"] if self._voxels >= 1e6 else []
        told += [f"[red]{self._failed} failed[/]"] if self._failed else []
        self._progress.update(self._batch, advance=1, description=", ".join(told))

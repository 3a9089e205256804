"""What follows a batch while it runs, such as a bar or a log."""

from collections.abc import Generator
from pathlib import Path
from typing import TypeAlias

from tomoseg.report.records import CaseReport

# the index of each case and its outcome
Outcomes: TypeAlias = Generator[tuple[int, CaseReport], None, None]


class Progress:
    """Follow a batch in silence; a subclass overrides the methods.

    Example:
        >>> import tomoseg
        >>> class Names(tomoseg.Progress):
        ...     def on_case(self, report):
        ...         print(report.output, report.status)
        >>> _ = tomoseg.segment_batch("hippocampus", ["scans"], "results", progress=Names())
        results/scan_seg.nii.gz done
    """

    def on_start(self, cases: int) -> None:
        """Expect this many cases more."""

    def on_window(self, path: Path, done: int, total: int) -> None:
        """Handle a finished window; Ray's workers do not report windows.

        Args:
            path: of the scan.
            done: number of finished windows.
            total: number of windows of the scan.
        """

    def on_case(self, report: CaseReport) -> None:
        """Handle a finished case; with several workers they finish in any order."""

    def on_note(self, note: str) -> None:
        """Note something about the batch as a whole, such as a worker that died."""

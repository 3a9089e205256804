"""Show a batch: two bars (batch, current scan), a line for each result, and a summary."""

import time
from collections import Counter
from pathlib import Path

from rich.markup import escape
from rich.progress import MofNCompleteColumn, TextColumn

from tomoseg.batch.progress import Progress
from tomoseg.bundle.confidence import ExpectedDice
from tomoseg.cli.terminal import print_table
from tomoseg.core.errors import printable
from tomoseg.core.notes import print_error, print_line, print_note, print_warning
from tomoseg.core.progress import ProgressBars
from tomoseg.report.records import CaseReport, LabelVolume, Report

STATUSES = {"done": "done", "skipped": "done by an earlier run", "failed": "failed"}
SPEED_PERIOD_S = 600  # the time left is that of the scans of the last minutes; one may take half a minute


class BatchProgress(ProgressBars, Progress):
    """Prints each outcome; draws bars on standard error while it is open, where that is a terminal.

    Args:
        quiet: draw nothing, and print errors and warnings only.
        numbered: print the place of each scan in the batch where no bar shows it, as "[3/40] ".
    """

    def __init__(self, quiet: bool, numbered: bool = True) -> None:
        super().__init__(MofNCompleteColumn(), TextColumn("{task.fields[unit]}"), hidden=quiet, recent_s=SPEED_PERIOD_S)
        self._quiet = quiet
        self._numbered = numbered and not self._console.is_terminal
        self._batch = self._bars.add_task("", total=0, visible=False, unit="scans")
        self._scan = self._bars.add_task("", visible=False, unit="windows")
        self._input: Path | None = None
        self._cases = self._done = self._failed = self._voxels = 0

    def on_start(self, cases: int) -> None:
        """Add cases to the bar of the batch."""
        self._cases += cases
        self._bars.update(self._batch, total=self._cases, visible=self._cases > 1)

    def on_window(self, path: Path, done: int, total: int) -> None:
        """Show the windows of the scan that the network is at."""
        if path != self._input:
            self._input = path
            self._bars.reset(self._scan, total=total, description=escape(printable(path.name)), visible=True)
        self._bars.update(self._scan, completed=done, visible=done < total)
        self.tell_each_minute(printable(f"{path}: {done} of {total} windows"))

    def on_case(self, report: CaseReport) -> None:
        """Print the result of a case."""
        self._done += 1
        self._printed = time.monotonic()
        self._failed += report.status == "failed"
        self._voxels += report.voxels
        counted = [f"{self._voxels / 1e6:.0f} million voxels"] if self._voxels >= 1e6 else []
        counted += [f"[red]{self._failed} failed[/]"] if self._failed else []
        self._bars.update(self._batch, advance=1, description=", ".join(counted))
        print_case(report, self._quiet, f"[{self._done}/{self._cases}] " if self._numbered and self._cases > 1 else "")

    def on_note(self, note: str) -> None:
        """Print a note."""
        print_note(note)


def print_case(case: CaseReport, quiet: bool, place: str = "") -> None:
    """Print what came of a scan, with its place in the batch in front."""
    if case.status == "failed":
        print_error(f"{place}{case.reason}")
        return
    to = f" -> {case.output}" if case.output else ""
    for warning in case.warnings:
        print_warning(f"{case.input}: {warning}")
    if case.status == "skipped":
        if not quiet:
            print_line(f"{place}{case.input}{to}: done by an earlier run")
        return
    stats = case.stats
    for note in stats.notes:
        print_note(f"{case.input}: {note}")
    if not quiet:
        volumes = ", ".join(map(_describe_label, case.labels))
        skipped = f", {stats.skipped_windows} of {stats.windows} windows skipped" if stats.skipped_windows else ""
        print_line(f"{place}{case.input}{to}: {volumes} ({stats.total_seconds:.1f} s{skipped})")


def _describe_label(row: LabelVolume) -> str:
    """Return name, volume and expected Dice of a label."""
    if row.expected_dice is None:
        return f"{row.name} {row.volume_ml:.2f} mL"
    expected = ExpectedDice(row.expected_dice, row.expected_dice_low)
    return f"{row.name} {row.volume_ml:.2f} mL (expected Dice {expected})"


def print_summary(report: Report, page: Path | None) -> None:
    """Print how many cases ended how, those that failed once more, and where to read on."""
    counts = Counter[str](case.status for case in report.cases)
    if report.failed:
        rows = [(case.input, case.reason.removeprefix(f"{case.input}: ")) for case in report.failed]
        print_table("", ("failed", "why"), rows)
    reported = ", ".join(f"{name}: {counts[status]}" for status, name in STATUSES.items() if counts[status])
    print_line(f"{reported}{f'; see {page}' if page else ''}")

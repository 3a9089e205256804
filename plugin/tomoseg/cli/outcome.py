"""What is printed of scans that are done with."""

from collections import Counter
from pathlib import Path

from tomoseg.cli.terminal import print_table
from tomoseg.core.notes import print_error, print_note, print_warning
from tomoseg.report.records import CaseReport, Report

STATUSES = {"done": "done", "skipped": "done by an earlier run", "failed": "failed"}


def print_case(case: CaseReport, quiet: bool, place: str = "") -> None:
    """Print what came of a scan, with its place in the batch in front."""
    if case.status == "failed":
        print_error(f"{place}{case.reason}")
        return
    for warning in case.warnings:
        print_warning(f"{case.input}: {warning}")
    if case.status == "skipped":
        if not quiet:
            print(f"{place}{case.input} -> {case.output}: done by an earlier run", flush=True)
        return
    stats = case.stats
    for note in stats.notes:
        print_note(f"{case.input}: {note}")
    if not quiet:
        volumes = ", ".join(f"{row.name} {row.volume_ml:.2f} mL" for row in case.labels)
        skipped = f", {stats.skipped_windows} of {stats.windows} windows skipped" if stats.skipped_windows else ""
        print(f"{place}{case.input} -> {case.output}: {volumes} ({stats.total_seconds:.1f} s{skipped})", flush=True)


def print_summary(report: Report, page: Path | None) -> None:
    """Print how many cases ended how, those that failed once more, and where to read on."""
    counts = Counter[str](case.status for case in report.cases)
    if report.failed:
        rows = [(case.input, case.reason.removeprefix(f"{case.input}: ")) for case in report.failed]
        print_table("", ("failed", "why"), rows)
    reported = ", ".join(f"{counts[status]} {name}" for status, name in STATUSES.items() if counts[status])
    print(f"{reported} of {len(report.cases)}{f'; see {page}' if page else ''}", flush=True)

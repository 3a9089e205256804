"""What is told of scans that are done with."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from tomoseg.cli.terminal import console
from tomoseg.core.notes import print_error, print_note, print_warning
from tomoseg.report.html.document import write_page
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
    for remark in case.remarks:
        print_note(f"{case.input}: {remark}")
    if not quiet:
        volumes = ", ".join(f"{row.name} {row.volume_ml:.2f} mL" for row in case.labels)
        skipped = f", {case.skipped_windows} of {case.windows} windows skipped" if case.skipped_windows else ""
        seconds = sum(case.seconds.values())
        print(f"{place}{case.input} -> {case.output}: {volumes} ({seconds:.1f} s{skipped})", flush=True)


def print_summary(report: Report, page: Path | None) -> None:
    """Print how many cases ended how, those that failed once more, and where to read on."""
    counts = Counter[str](case.status for case in report.cases)
    if report.failed:
        table = Table("failed", "why", title_justify="left")
        for case in report.failed:
            table.add_row(escape(case.input), escape(case.reason.removeprefix(f"{case.input}: ")))
        console().print(table)
    told = ", ".join(f"{counts[status]} {name}" for status, name in STATUSES.items() if counts[status])
    print(f"{told} of {len(report.cases)}{f'; see {page}' if page else ''}", flush=True)


def save_reports(report: Report, folder: Path, json_file: Path | None = None, latest: int = 0) -> None:
    """Write report.json (or another file in its place), statistics.csv and report.html, or the latest cases of it."""
    report.save(json_file or folder / "report.json")
    report.save_statistics(folder / "statistics.csv")
    write_page(replace(report, cases=report.cases[-latest:]), folder / "report.html")

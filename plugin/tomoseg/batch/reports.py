"""Write the reports of a batch: report.json, statistics.csv and report.html."""

from dataclasses import replace
from pathlib import Path

from tomoseg.report.html.document import write_page
from tomoseg.report.records import Report


def save_reports(report: Report, folder: Path, json_file: Path | None = None, latest: int = 0) -> None:
    """Write the reports of a batch into a folder.

    Args:
        report: what the batch gave.
        folder: for statistics.csv and report.html.
        json_file: the file for JSON; by default report.json in the folder.
        latest: number of cases on the page, the last of all; 0 for all.

    Raises:
        OutputError: one of them cannot be written.
    """
    report.save(json_file or folder / "report.json")
    report.save_statistics(folder / "statistics.csv")
    write_page(replace(report, cases=report.cases[-latest:]), folder / "report.html")

"""The page of a run: failures first, then a table of all scans."""

import platform
from collections import Counter
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from tomoseg.core.files import common_folder
from tomoseg.core.version import __version__
from tomoseg.report.environment import installed_packages
from tomoseg.report.html.findings import MAX_NAMED, STATUSES, make_columns, make_rows
from tomoseg.report.html.template import write_html
from tomoseg.report.records import Report
from tomoseg.report.text import show_duration, show_moment

FINDINGS = {
    "warning": "with warnings", "outlier": "unusual volumes", "edge": "at the edge", "note": "with notes",
    "earlier": "done by an earlier run",
}  # fmt: skip
FILTERS = STATUSES | FINDINGS


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


def write_page(report: Report, path: Path) -> None:
    """Write the report as a single HTML file, atomically; it asks the network for nothing.

    Failures stand first. Where at least 8 scans have labels, volumes that stand out among them are marked (see
    `find_outliers`). The previews are part of the page, the smaller the more there are.

    Args:
        report: the run, finished or not.
        path: of the page; links lead from there to previews and label maps.

    Raises:
        OutputError: it cannot be written.
    """
    base = common_folder(map(Path, (*(case.input for case in report.cases), *report.pending)))
    columns = make_columns(report.cases)
    rows = make_rows(report, columns, base)
    counts = Counter(kind for row in rows for kind in row.kinds)
    reasons: dict[str, list[Path]] = {}
    for row in rows:
        if row.status == "failed":
            reasons.setdefault(row.look[0][1], []).append(row.place)
    write_html(
        path,
        Path(__file__).parent,
        "report.html",
        report=report,
        when=_when(report),
        machine=_machine(report),
        system=_system(),
        home=path.absolute().parent,
        base=base,
        statuses=STATUSES,
        columns=columns,
        rows=rows,
        illustrated=any(row.picture for row in rows),
        expecting=any(row.doubtful for row in rows),
        counts=counts,
        chips=[(kind, f"{name} {counts[kind]}") for kind, name in FILTERS.items() if 0 < counts[kind] < len(rows)],
        reasons=reasons,
        named=MAX_NAMED,
    )


def _when(report: Report) -> str:
    start = datetime.fromisoformat(report.started)
    if report.finished is None:
        return f"{show_moment(start)} UTC"
    end = datetime.fromisoformat(report.finished)
    shown = f"{end:%H:%M}" if end.date() == start.date() else show_moment(end)
    return f"{show_moment(start)} to {shown} UTC, {show_duration((end - start).total_seconds())}"


def _machine(report: Report) -> str:
    if report.device.startswith("cuda") and (gpus := report.hardware.get("gpus")):
        return str(gpus[int(report.device.partition(":")[2] or 0) % len(gpus)])
    return str(report.hardware.get("cpu", report.device))


def _system() -> dict[str, str]:
    """Return what the page says of the software that ran."""
    packages = ", ".join(f"{name} {version}" for name, version in installed_packages().items())
    versions = {"tomoseg": __version__, "python": platform.python_version(), "packages": packages}
    return {**versions, "platform": platform.platform()}

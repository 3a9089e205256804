"""The page of a run: what stands above and below the table."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path

from tomoseg.core.version import __version__
from tomoseg.report.environment import installed_packages
from tomoseg.report.html.findings import MAX_NAMED, STATUSES, Column, Row, common_folder, make_columns, make_rows
from tomoseg.report.html.pictures import embed
from tomoseg.report.html.shell import read_asset, write_html
from tomoseg.report.html.table import MAX_LABEL_COLUMNS, make_table, name_when_narrow, show_duration
from tomoseg.report.records import Report

FILTERS = {
    **STATUSES,
    "warning": "with warnings",
    "outlier": "unusual volumes",
    "edge": "at the edge",
    "remark": "with remarks",
}
MAX_REASONS = 20  # that stand above the table


def write_page(report: Report, path: Path) -> None:
    """Write the report as a single HTML file, atomically; it asks the network for nothing.

    Failures stand first. Where at least 8 scans have labels, volumes that stand out among them are marked (see
    `find_outliers`). The previews are part of the page, the smaller the more there are.

    Args:
        report: the run, also one that did not reach its end.
        path: of the page; links lead from there to previews and label maps.

    Raises:
        OutputError: it cannot be written.
    """
    base = common_folder([*(case.input for case in report.cases), *report.pending])
    columns = make_columns(report.cases)
    rows = make_rows(report, columns, base)
    pictures = embed([row.case.preview if row.case else None for row in rows])
    bundle = report.bundle.get("name", "")
    write_html(
        path,
        read_asset("tomoseg.report.html", "page.html"),
        name_when_narrow(columns, bool(any(pictures))),
        title=escape(f"{bundle}: {len(report.cases) + len(report.pending)} scans, {len(report.failed)} failed"),
        heading=f"{escape(bundle)} <small>{escape(report.bundle.get('version', ''))}</small>",
        when=escape(_when_and_where(report)),
        verdict=_verdict(rows),
        bar=_bar(rows),
        alert=_alert(report),
        failures=_failures([row for row in rows if row.status == "failed"]),
        where=f"in <bdi>{escape(str(base))}</bdi>" if base and base.name else "",
        filters=_filters(rows),
        choice=_choice(columns),
        table=make_table(rows, columns, pictures, path.absolute().parent),
        notes=_notes(columns),
        details=_details(report),
    )


def _verdict(rows: Sequence[Row]) -> str:
    counts = {kind: sum(kind in row.kinds for row in rows) for kind in FILTERS}
    parts = [f"<b>{counts['done'] + counts['skipped']}</b> of {_count(len(rows), 'scan')} have labels"]
    if counts["failed"]:
        parts.append(f"<b class=failed>{counts['failed']} failed</b>")
    if counts["skipped"]:
        parts.append(f"{counts['skipped']} skipped (done earlier)")
    if counts["pending"]:
        parts.append(f"{counts['pending']} not run")
    if counts["warning"]:
        parts.append(f"<b class=flagged>{counts['warning']} with warnings</b>")
    if counts["outlier"]:
        parts.append(f"<b class=flagged>{counts['outlier']} with unusual volumes</b>")
    return " · ".join(parts)


def _bar(rows: Sequence[Row]) -> str:
    left, parts = 0, []
    for status in reversed(STATUSES):
        if width := sum(row.status == status for row in rows):
            parts.append(f'<rect class={status} x="{left}" width="{width}" height="1"/>')
            left += width
    box = f'viewBox="0 0 {max(left, 1)} 1" preserveAspectRatio=none'
    return f"<svg class=bar {box} aria-hidden=true>{''.join(parts)}</svg>"


def _alert(report: Report) -> str:
    if not (report.interrupted or report.pending):
        return ""
    left = f": {_count(len(report.pending), 'scan')} did not have their turn" if report.pending else ""
    return (
        f"<p class=alert role=note><b>This run did not reach its end{left}.</b> "
        "Run the same command again to do the rest; what is done is kept.</p>"
    )


def _failures(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row.look[0][1], []).append(f"<bdi>{escape(str(row.place))}</bdi>")
    parts = []
    for reason, places in groups.items():
        names = "".join(f"<dd>{place}</dd>" for place in places)
        if len(places) > MAX_NAMED:
            listed = "".join(f"<li>{place}</li>" for place in places)
            names = f"<dd><details><summary>{len(places)} scans</summary><ul>{listed}</ul></details></dd>"
        parts.append(f"<dt>{escape(reason)}</dt>{names}")
    rest = len(parts) - MAX_REASONS
    more = f"<p>The {_count(rest, 'other reason')} stand in the table.</p>" if rest > 0 else ""
    return (
        f"<section class=failures aria-labelledby=failures><h2 id=failures>{_count(len(rows), 'scan')} failed</h2>"
        f"<dl>{''.join(parts[:MAX_REASONS])}</dl>{more}</section>"
    )


def _filters(rows: Sequence[Row]) -> str:
    chips = [f'<button type=button data-kind="" aria-pressed=true>all {len(rows)}</button>']
    for kind, name in FILTERS.items():
        if 0 < (count := sum(kind in row.kinds for row in rows)) < len(rows):
            chips.append(f"<button type=button data-kind={kind} aria-pressed=false>{name} {count}</button>")
    return "".join(chips) if len(chips) > 1 else ""


def _choice(columns: Sequence[Column]) -> str:
    """Return what chooses the label to show, where there is no room for all."""
    if len(columns) <= MAX_LABEL_COLUMNS:
        return ""
    names = [f"{one.name} ({len(one.outliers)} unusual)" if one.outliers else one.name for one in columns]
    options = "".join(f"<option value={index}>{escape(name)}</option>" for index, name in enumerate(names))
    everything = f"<option value=-1>all {len(columns)} labels</option>"
    return f"<label>Volume of <select autocomplete=off>{options}{everything}</select></label>"


def _notes(columns: Sequence[Column]) -> str:
    told = []
    if any(column.usual for column in columns):
        told.append(
            "▲ and ▼ mark volumes more than 3.5 × 1.4826 times the median absolute deviation away from the median of "
            "all scans (Iglewicz and Hoaglin 1993), and labels that most other scans have. Such a scan may be unusual, "
            "or its labels wrong: look at it."
        )
    elif columns:
        told.append("With eight scans or more, volumes that stand out among them are marked.")
    if columns:
        told.append("A dotted underline marks labels that reach the edge of the scan.")
    told.append("For research only; not for diagnosis or treatment.")
    return "".join(f"<p>{text}</p>" for text in told)


def _details(report: Report) -> str:
    hardware = report.hardware
    packages = ", ".join(f"{name} {version}" for name, version in installed_packages().items())
    entries = {
        "tomoseg": f"{__version__}, Python {platform.python_version()}, {packages}",
        "System": platform.platform(),
        "CPU": f"{hardware['cpu']}, {hardware['cores']} cores" if hardware else "",
        "Memory": f"{hardware['memory_bytes'] / 1e9:.0f} GB" if hardware else "",
        "GPU": ", ".join(hardware.get("gpus", [])),
        "Network ran on": f"{report.device}, {report.backend}, {report.precision}",
        "SHA-256 of the config": report.bundle.get("config_sha256", ""),
        "SHA-256 of the weights": report.bundle.get("checkpoint_sha256", ""),
        **{f"--{name.replace('_', '-')}": _option(value) for name, value in report.options.items() if value},
    }
    told = "".join(f"<dt>{escape(key)}</dt><dd>{escape(text)}</dd>" for key, text in entries.items() if text)
    return f"<details><summary>How it was run</summary><dl>{told}</dl></details>"


def _option(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else "yes" if value is True else str(value)


def _when_and_where(report: Report) -> str:
    start = datetime.fromisoformat(report.started)
    told = f"{start.day} {start:%B %Y, %H:%M}"
    if report.finished is not None:
        end = datetime.fromisoformat(report.finished)
        day = "" if end.date() == start.date() else f"{end.day} {end:%B %Y}, "
        told += f" to {day}{end:%H:%M} UTC, {show_duration((end - start).total_seconds())}"
    else:
        told += " UTC"
    machine = report.hardware.get("cpu", report.device)
    if report.device.startswith("cuda") and (gpus := report.hardware.get("gpus")):
        machine = gpus[int(report.device.partition(":")[2] or 0) % len(gpus)]
    return f"{told} · {machine} · {report.backend}, {report.precision}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

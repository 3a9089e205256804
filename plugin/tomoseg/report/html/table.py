"""The table of the scans, as HTML."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from tomoseg.report.html.findings import KINDS, STATUSES, Column, Row, explain_outlier
from tomoseg.report.records import CaseReport

MAX_LABEL_COLUMNS = 12  # labels; more of them do not fit beside the rest


def make_table(rows: Sequence[Row], columns: Sequence[Column], pictures: Sequence[str], home: Path) -> str:
    """Return the table: a row for each scan, a column for each label.

    Args:
        rows: the scans.
        columns: the labels.
        pictures: of each scan, as a URI; "" where there is none.
        home: the folder of the page.
    """
    illustrated = any(pictures)
    heads = ["<th scope=col>Preview</th>"] if illustrated else []
    heads += [f"<th scope=col data-sort>{name}</th>" for name in ("Scan", "Status", "What to know")]
    heads.append('<th scope=col data-sort class="n">Time</th>')
    median = ""
    if any(column.usual for column in columns):
        count = max(len(column.volumes_ml) for column in columns)
        cells = "".join(f'<td class="n v">{c.show(c.usual.median_ml) if c.usual else ""}</td>' for c in columns)
        median = f'<tr class=median><th scope=row colspan="{len(heads)}">Median of {count} scans</th>{cells}</tr>'
    heads += [f'<th scope=col data-sort class="n v">{escape(column.name)} <small>mL</small></th>' for column in columns]
    body = "\n".join(
        _row(row, columns, picture, illustrated, home) for row, picture in zip(rows, pictures, strict=True)
    )
    kind = "wide" if len(columns) > MAX_LABEL_COLUMNS else "all"
    return (
        f"<table class={kind}><caption>One row a scan, failures first; volumes in millilitres</caption>"
        f"<thead><tr>{''.join(heads)}</tr>{median}</thead>\n<tbody>{body}</tbody></table>"
    )


def name_when_narrow(columns: Sequence[Column], illustrated: bool) -> str:
    """Return the CSS that names each volume on a narrow screen, where there is no head above it."""
    rules = []
    for place, column in enumerate(columns, 6 if illustrated else 5):
        name = "".join(char if char.isalnum() and char.isascii() else f"\\{ord(char):x} " for char in column.name)
        rules.append(f'td:nth-child({place}):not(:empty)::before {{ content: "{name} "; }}')
    return "@media (max-width: 760px) {\n" + "\n".join(rules) + "\n}\n"


def show_duration(seconds: float) -> str:
    """Return a duration as people say it, e.g. "39 min 45 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _row(row: Row, columns: Sequence[Column], picture: str, illustrated: bool, home: Path) -> str:
    case = row.case
    kinds = sorted(row.kinds - {""})
    cells = [f"<td class=picture>{_picture(row, picture, home)}</td>"] if illustrated else []
    series = f"<small>series {escape(case.series)}</small>" if case and case.series else ""
    folder = f"<small><bdi>{escape(str(row.place.parent))}</bdi></small>" if row.place.parent.name else ""
    output = f"<small><a href={_link(case.output, home)}>Open the labels</a></small>" if case and case.output else ""
    key = escape(str(row.place))
    cells.append(
        f'<th scope=row data-v="{key}"><b><bdi>{escape(row.place.name)}</bdi></b>{folder}{series}{output}</th>'
    )
    cells.append(f"<td class=status data-v={list(STATUSES).index(row.status)}>{STATUSES[row.status]}</td>")
    rank = min((KINDS.index(kind) for kind, _ in row.look if kind), default=len(KINDS))
    look = "".join(f"<p{f' class={kind}' if kind else ''}>{escape(text)}</p>" for kind, text in row.look)
    cells.append(f"<td class=look data-v={rank}>{look}</td>")
    cells.append(_time(case) if case and case.seconds else "<td class=n></td>")
    at_edge = {(one.label, one.name) for one in case.labels if one.touches_border} if case else set()
    cells += [_volume(row.index, column, (column.label, column.name) in at_edge) for column in columns]
    return f'<tr class="{" ".join(kinds)}">{"".join(cells)}</tr>'


def _time(case: CaseReport) -> str:
    stages = ", ".join(f"{stage} {show_duration(seconds)}" for stage, seconds in case.seconds.items())
    shown = show_duration(case.total_seconds)
    return f'<td class=n data-v={case.total_seconds:.3f} title="{escape(stages)}">{shown}</td>'


def _volume(index: int, column: Column, at_edge: bool) -> str:
    volume_ml = column.volumes_ml.get(index)
    if volume_ml is None:
        return '<td class="n v"></td>'
    marks, told, sign = "n v", [], ""
    if not volume_ml:
        marks += " zero"
    if index in column.outliers:
        assert column.usual is not None
        marks, sign = marks + " out", "▲ " if volume_ml > column.usual.median_ml else "▼ "
        told.append(explain_outlier(column, volume_ml))
    shown = column.show(volume_ml)
    if at_edge:
        shown = f"<span class=cut>{shown}</span>"
        told.append(f"{column.name} reaches the edge of the scan and may be cut off there.")
    title = f' title="{escape(" ".join(told))}"' if told else ""
    key = f' data-v="{volume_ml:.6g}"' if sign else ""
    return f'<td class="{marks}"{key}{title}>{sign}{shown}</td>'


def _picture(row: Row, picture: str, home: Path) -> str:
    if row.case is None or row.case.preview is None or not picture:
        return ""
    name = escape(row.place.name)
    return (
        f'<a href={_link(row.case.preview, home)} title="Enlarge"><img loading=lazy decoding=async src="{picture}" '
        f'width=1080 height=456 alt="{name} in three planes, with its labels"></a>'
    )


def _link(target: str, home: Path) -> str:
    """Return where a file lies as seen from the page's folder, quoted for an attribute."""
    place = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would follow links
    try:
        relative = Path(os.path.relpath(place, home)).as_posix()
    except ValueError:  # another drive
        return f'"{escape(place.as_uri())}"'
    # a name with a colon would be taken for a scheme, such as javascript: but for the quoting
    return f'"{escape(quote(os.fsencode(relative)))}"'

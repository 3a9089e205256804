"""Format findings as rows of text; the caller chooses colours and widths."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tomoseg.core.errors import some
from tomoseg.data.datasets import PARTS, TEST
from tomoseg.data.inspection.dataset import DatasetFindings, summarise_scans
from tomoseg.data.inspection.inspection_report import InspectionReport
from tomoseg.data.inspection.scan import ScanFindings
from tomoseg.data.volume import by

MAX_FILES = 3  # files in a note on many
MAX_NOTES = 20  # programs read the rest from the JSON
MAX_LISTED_VALUES = 12


@dataclass(frozen=True)
class Table:
    """Rows under column names.

    Attributes:
        title: title of the table.
        columns: their names.
        rows: each as long as `columns`.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tabulate(report: InspectionReport) -> list[Table]:
    """Return one table of the scans, a row each, and two of each dataset: what its scans are like, and its labels."""
    tables = []
    if report.scans:
        values = ("values",) if report.voxels else ()
        columns = ("", "scan", "shape", "spacing mm", "axes", "stored as", *values)
        rows = tuple(_describe_scan(scan, report.voxels) for scan in report.scans)
        tables.append(Table(f"{len(rows)} scan{'s' * (len(rows) != 1)}", columns, rows))
    for dataset in report.datasets:
        tables.append(Table(str(dataset.path), ("dataset", ""), tuple(_describe_dataset(dataset))))
        if dataset.labels:
            columns = ("value", "label", "found in", "drawn in", "voxels", "mL", "mL a case")
            tables.append(Table(str(dataset.path), columns, tuple(_describe_labels(dataset))))
    return tables


def list_errors(report: InspectionReport) -> list[str]:
    """Return one line for each problem: where, and what."""
    return [f"{place}: {text}" for place, text in _collect(report, "errors")]


def list_notes(report: InspectionReport) -> list[str]:
    """Return one line for each note, those that are alike together."""
    places: dict[str, list[str]] = defaultdict(list)
    for place, text in _collect(report, "notes"):
        places[text].append(place)
    lines = list(report.notes)
    for text, where in places.items():
        lines.append(f"{some(where, MAX_FILES)}: {text}")
    left_out = len(lines) - MAX_NOTES
    return lines if left_out <= 0 else [*lines[:MAX_NOTES], f"and {left_out} more notes; --json has them all"]


def _collect(report: InspectionReport, kind: Literal["errors", "notes"]) -> Iterator[tuple[str, str]]:
    """Yield each line with the file or folder that it is about."""
    for scan in report.scans:
        yield from ((_place(scan), text) for text in getattr(scan, kind))
    for dataset in report.datasets:
        yield from ((str(dataset.path), text) for text in getattr(dataset, kind))
        for case in dataset.cases:
            yield from ((_place(case.scans[-1]), text) for text in getattr(case, kind))
            for scan in case.scans:
                yield from ((_place(scan), text) for text in getattr(scan, kind))


def _place(scan: ScanFindings) -> str:
    return str(scan.path) if scan.series is None else f"{scan.path} (series {scan.series.uid})"


def _describe_scan(scan: ScanFindings, voxels: bool) -> tuple[str, ...]:
    name = str(scan.path)
    if scan.series is not None:
        name += f"\n{scan.series.uid}\n{scan.series.details}"
    grid = scan.grid
    place = ("", "", "") if grid is None else (by(grid.shape), _lengths(grid.spacing), grid.orientation)
    values = (_values(scan),) if voxels else ()
    return ("bad" if scan.errors else "ok", name, *place, f"{scan.format} {scan.dtype}".strip(), *values)


def _values(scan: ScanFindings) -> str:
    found = scan.voxels
    if found is None or found.minimum is None:
        return ""
    if found.values is None or len(found.values) > MAX_LISTED_VALUES:
        number = "" if found.values is None else f", {len(found.values)} values"
        return f"{found.minimum:g} to {found.maximum:g}{number}"
    return ", ".join(map(str, found.values))


def _describe_dataset(dataset: DatasetFindings) -> Iterator[tuple[str, str]]:
    counts = {part: dataset.count(part) for part in (*PARTS, TEST)}
    yield "state", "ok" if dataset.ok else "bad"
    if not dataset.cases:
        return
    yield "cases", ", ".join(f"{count} {part}" for part, count in counts.items() if count) or "none"
    found = summarise_scans(dataset.images)
    yield "modality", dataset.modality or "unknown"
    for name, key in (("format", "formats"), ("type", "dtypes"), ("axes", "orientations")):
        counted = found[key]
        yield name, ", ".join(counted) if len(counted) == 1 else ", ".join(f"{one} ({n})" for one, n in counted.items())
    yield "shape", _range(found["shape"])
    yield "spacing mm", _range(found["spacing_mm"])
    if found["values"] is not None:
        yield "values", f"{found['values']['minimum']:g} to {found['values']['maximum']:g}"


def _describe_labels(dataset: DatasetFindings) -> Iterator[tuple[str, ...]]:
    for label in dataset.labels:
        each = f"{label.volume_ml / label.cases:.2f}" if label.cases else ""
        cases = f"{label.cases} cases", f"{label.annotated_cases} cases"
        sizes = str(label.voxels), f"{label.volume_ml:.2f}", each
        yield str(label.value), label.name or "not named", *cases, *sizes


def _range(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    low, middle, high = (_lengths(found[key]) for key in ("minimum", "median", "maximum"))
    return low if low == high else f"{low} to {high}, median {middle}"


def _lengths(lengths: Sequence[float]) -> str:
    return "×".join(f"{length:.4g}" for length in lengths)

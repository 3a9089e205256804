"""Findings of each scan of a run, for its page, such as labels with an unusual volume."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tomoseg.report.html.pictures import embed
from tomoseg.report.records import CaseReport, LabelVolume, Location, Report
from tomoseg.report.text import show_number

STATUSES = {"failed": "failed", "pending": "not run", "empty": "no labels", "done": "done"}  # the gravest first
KINDS = ("reason", "empty", "warning", "outlier", "edge", "note")  # of findings, the gravest first
MAX_NAMED = 6  # outliers and labels at the edge that are listed one by one

# Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993): a modified z-score beyond 3.5 is an outlier. 1.4826
# times the median absolute deviation, and sqrt(pi / 2) times the mean one, is the SD of a normal distribution.
OUTLIER_SDS = 3.5
MEDIAN_TO_SD, MEAN_TO_SD = 1.4826, 1.2533
MIN_SCANS_FOR_RANGE = 8  # too few scans below for a range
SAME_VOLUME_TOLERANCE = 1e-6  # of the median: one scan stored twice differs by this much where an affine was rounded


@dataclass(frozen=True, eq=False)
class ReferenceRange:
    """What the volumes of one label are usually like.

    Attributes:
        median_ml: their median.
        range_ml: `[lowest, highest]` that is not unusual.
        present: how many are above 0.
        outliers: (scan,) whether it stands out, by its volume or because the label is absent.
    """

    median_ml: float
    range_ml: tuple[float, float]
    present: int
    outliers: NDArray[np.bool_]


def find_outliers(volumes_ml: Sequence[float]) -> ReferenceRange | None:
    """Find the unusual volumes of one label among those of many scans.

    A volume stands out where it is more than 3.5 × 1.4826 × MAD away from the median (MAD: median absolute deviation;
    where that is 0, the mean one takes its place), or where it is 0 and most of the others are not.

    Args:
        volumes_ml: one a scan, 0 where the label is absent.

    Returns:
        None for fewer than 8 scans.
    """
    volumes = np.asarray(volumes_ml, dtype=np.float64)
    if len(volumes) < MIN_SCANS_FOR_RANGE:
        return None
    present = int(np.count_nonzero(volumes))
    median = float(np.median(volumes))
    deviations = np.abs(volumes - median)
    spread = MEDIAN_TO_SD * float(np.median(deviations)) or MEAN_TO_SD * float(np.mean(deviations))
    limit = max(OUTLIER_SDS * spread, SAME_VOLUME_TOLERANCE * median)
    outliers = deviations > limit
    if median == 0:  # most lack it, so having it is no fault
        outliers[:] = False
    if present > (len(volumes) - 1) / 2:
        outliers |= volumes == 0
    return ReferenceRange(median, (max(median - limit, 0.0), median + limit), present, outliers)


@dataclass(frozen=True)
class Column:
    """The volumes of one label.

    Attributes:
        volumes_ml: by the index of the case, without those that have no labels.
        usual: range of usual volumes; None for a few scans.
        outliers: the indices of the cases that stand out.
        at_edge: the indices of the cases in which the label reaches the edge of the scan.
        decimals: with which they are shown.
    """

    label: int
    name: str
    volumes_ml: dict[int, float]
    usual: ReferenceRange | None
    outliers: frozenset[int]
    at_edge: frozenset[int]
    decimals: int

    def show(self, volume_ml: float) -> str:
        """Return a volume as it stands in the table; a plain 0 for an absent label."""
        return f"{volume_ml:.{self.decimals}f}" if volume_ml else "0"

    def explain_outlier(self, index: int) -> str:
        """Return in plain words why the volume of a case stands out."""
        usual, volume_ml = self.usual, self.volumes_ml[index]
        assert usual is not None
        if not volume_ml:
            return f"{self.name} is missing; {usual.present} of {len(usual.outliers)} scans have it."
        size = "large" if volume_ml > usual.median_ml else "small"
        low, high = map(self.show, usual.range_ml)
        return (
            f"{self.name} is unusually {size}: {self.show(volume_ml)} mL, where the median is "
            f"{self.show(usual.median_ml)} mL and {low} to {high} mL is usual."
        )

    def explain(self, index: int) -> str:
        """Return why the volume of a case is marked; nothing where it is not."""
        edge = f"{self.name} reaches the edge of the scan and may be cut off there."
        outlier = [self.explain_outlier(index)] if index in self.outliers else []
        return " ".join([*outlier, *[edge] * (index in self.at_edge)])


@dataclass(frozen=True)
class Row:
    """One scan.

    Attributes:
        place: where it lies below the folder of all.
        look: (kind, text) of its findings.
        index: of the case; -1 for a scan that has not run.
        case: None for a scan that has not run.
        picture: its preview as a `data:` URI; "" for none.
    """

    place: Path
    look: tuple[tuple[str, str], ...]
    index: int = -1
    case: CaseReport | None = None
    picture: str = ""

    @property
    def doubtful(self) -> LabelVolume | None:
        """The label with the lowest expected Dice; None where none is known."""
        rows = self.case.labels if self.case is not None else ()
        known = [(row.expected_dice, place) for place, row in enumerate(rows) if row.expected_dice is not None]
        return rows[min(known)[1]] if known else None

    @property
    def status(self) -> str:
        """One of `STATUSES`; a result of an earlier run is as good as one of this run."""
        if self.case is None:
            return "pending"
        if self.case.status == "failed":
            return "failed"
        return "done" if any(row.voxels for row in self.case.labels) else "empty"

    @property
    def kinds(self) -> set[str]:
        """Status and kinds of findings, to filter by."""
        earlier = ["earlier"] if self.case is not None and self.case.status == "skipped" else []
        return {self.status, *earlier, *(kind for kind, _ in self.look if kind)}

    @property
    def rank(self) -> int:
        """The place of its gravest finding among `KINDS`, to sort by."""
        return min((KINDS.index(kind) for kind, _ in self.look if kind), default=len(KINDS))


def make_columns(cases: Sequence[CaseReport]) -> list[Column]:
    """Return a column for each label that the scans have or lack."""
    # a whole scan and a crop have labels of one number and another meaning
    measured: dict[tuple[int, str], dict[int, LabelVolume]] = {}
    for index, case in enumerate(cases):
        for row in case.labels if case.status != "failed" else ():
            measured.setdefault((row.label, row.name), {})[index] = row
    columns = []
    for (label, name), rows in sorted(measured.items()):
        found = {index: row.volume_ml for index, row in rows.items()}
        at_edge = frozenset(index for index, row in rows.items() if row.touches_border)
        usual = find_outliers(list(found.values()))
        outliers = [] if usual is None else np.array(list(found))[usual.outliers].tolist()
        middle = float(np.median([volume for volume in found.values() if volume] or [1.0]))
        decimals = min(max(2 - math.floor(math.log10(middle)), 0), 6)  # three digits of a usual volume
        columns.append(Column(label, name, found, usual, frozenset(outliers), at_edge, decimals))
    return columns


def make_rows(report: Report, columns: Sequence[Column], base: Path | None) -> list[Row]:
    """Return a row for each scan, failures first, otherwise in the order they ran."""
    pictures = embed([case.preview for case in report.cases])
    rows = []
    for index, (case, picture) in enumerate(zip(report.cases, pictures, strict=True)):
        rows.append(Row(_below(case.input, base), tuple(_look(index, case, columns)), index, case, picture))
    late = (("", "The run ended before its turn."),)
    rows += [Row(_below(name, base), late) for name in report.pending]
    return sorted(rows, key=lambda row: list(STATUSES).index(row.status))


def _look(index: int, case: CaseReport, columns: Sequence[Column]) -> Iterable[tuple[str, str]]:
    """Yield the findings of a case as (kind, text), the gravest first."""
    if case.status == "failed":
        yield "reason", case.reason.removeprefix(f"{case.input}: ")
        return
    if not any(row.voxels for row in case.labels):
        yield "empty", "No voxel has a label."
    if case.status == "skipped":
        yield "", case.reason or "Done by an earlier run."
    yield from (("warning", text) for text in case.warnings)
    outliers = [column.explain_outlier(index) for column in columns if index in column.outliers]
    yield from (("outlier", text) for text in outliers[:MAX_NAMED])
    if len(outliers) > MAX_NAMED:
        yield "outlier", f"{len(outliers) - MAX_NAMED} more volumes stand out; they are marked in the row."
    if at_edge := [row.name for row in case.labels if row.touches_border]:
        more = f" and {len(at_edge) - MAX_NAMED} more labels" if len(at_edge) > MAX_NAMED else ""
        verb = "reaches" if len(at_edge) == 1 else "reach"
        yield "edge", f"{', '.join(at_edge[:MAX_NAMED])}{more} {verb} the edge of the scan and may be cut off there."
    yield from (("note", text) for text in case.stats.notes)
    if case.location is not None:
        yield "", _describe_head(case.location)


def _describe_head(location: Location) -> str:
    """Return the totals of a whole head in one line."""
    parts = [f"{region.name} {show_number(region.volume_ml, 2)} mL" for region in location.regions]
    if location.asymmetry_percent is not None:
        parts.append(f"asymmetry {show_number(location.asymmetry_percent, 1)} %")
    if location.icv_ml is not None:
        parts.append(f"intracranial volume {show_number(location.icv_ml, 0)} mL")
    return ", ".join(parts)


def _below(name: str, base: Path | None) -> Path:
    return Path(name) if base is None else Path(name).relative_to(base)

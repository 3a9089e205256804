"""What a run did, case by case, as people and programs read it afterwards."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tomoseg.core.errors import one_line
from tomoseg.core.json_files import format_json, write_json
from tomoseg.core.run_stats import RunStats
from tomoseg.core.tables import write_csv
from tomoseg.core.version import __version__
from tomoseg.report.environment import installed_packages, utc_now

STATISTICS_COLUMNS = (
    "input", "label", "name", "voxels", "volume_ml", "mean", "sd",
    "first_i", "first_j", "first_k", "stop_i", "stop_j", "stop_k", "touches_border",
    "expected_dice", "expected_dice_low", "presence",
    "volume_per_icv", "icv_ml", "asymmetry_percent",
)  # fmt: skip
REVIEW_COLUMNS = ("input", "output", "label", "name", "voxels", "expected_dice", "expected_dice_low", "presence")


@dataclass(frozen=True)
class LabelVolume:
    """How much of one scan carries one label, where, and over which intensities.

    Attributes:
        label: its value.
        name: as the bundle calls it.
        voxels: how many voxels carry it, 0 where it does not occur.
        volume_ml: the same in millilitres.
        mean, sd: of the scan's intensity in these voxels (population SD); None where the label does not occur or the
            scan could not be looked at.
        first, stop: the box `[first, stop)` of voxel indices (i, j, k) that just holds it; None if it does not occur.
        touches_border: whether it reaches the first or the last plane of the scan along any axis.
        expected_dice: the Dice that it likely has with what an expert would draw; None where that is not known. Without
            `expected_dice_low` it is what the network's probabilities say, which is often too much.
        expected_dice_low: the Dice is not below it in 90 % of the cases; None for a bundle that was not calibrated.
        presence: probability that the scan shows it; None where that was not calibrated.
    """

    label: int
    name: str
    voxels: int
    volume_ml: float
    mean: float | None = None
    sd: float | None = None
    first: tuple[int, int, int] | None = None
    stop: tuple[int, int, int] | None = None
    touches_border: bool = False
    expected_dice: float | None = None
    expected_dice_low: float | None = None
    presence: float | None = None


@dataclass(frozen=True)
class RegionVolume:
    """How much of one structure was found in a whole scan, e.g. of the left hippocampus.

    Attributes:
        name: as the bundle calls it.
        voxels: of all its labels together.
        volume_ml: the same in millilitres.
        per_icv: mL of it for each litre of the intracranial volume; None where that is not known.
        centre_mm: of it, or of its box where it was not found; RAS+ mm of the scan.
    """

    name: str
    voxels: int
    volume_ml: float
    per_icv: float | None
    centre_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Location:
    """Where the structures of a bundle that was trained on crops were found in a whole scan.

    Attributes:
        template: name of the template that was registered.
        similarity: share of the scan's variance within the brain that the template's tissues explain, 0 to 1; None for
            a place that was given by hand.
        seen: share of the template's brain that the scan covers; None as for the similarity.
        icv_ml: intracranial volume, that of the template scaled as it was for this scan (Buckner et al. 2004,
            doi:10.1016/j.neuroimage.2004.06.018); None as for the similarity.
        asymmetry_percent: (left - right) / mean of both; None where one of them is not there.
        regions: one for each structure.
    """

    template: str
    similarity: float | None
    seen: float | None
    icv_ml: float | None
    asymmetry_percent: float | None
    regions: tuple[RegionVolume, ...]

    def keep(self, names: Collection[str]) -> Location:
        """Return it with some of the structures; without one of them, the asymmetry says nothing."""
        regions = tuple(region for region in self.regions if region.name in names)
        asymmetry = self.asymmetry_percent if len(regions) == len(self.regions) else None
        return replace(self, regions=regions, asymmetry_percent=asymmetry)


@dataclass(frozen=True)
class OutOfDomain:
    """How unlike the cases that its bundle was trained on a scan is.

    Attributes:
        distance: 0 for a scan amid them, above 1 for one that is unlike them.
        reasons: each difference with its size; none for a scan that fits.
    """

    distance: float
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaseReport:
    """The outcome for one input.

    Attributes:
        input: path of the scan.
        output: path of the label map, None where there is none.
        status: "done" if the label map was written, "failed" if not, "skipped" if it was there already and left alone.
        reason: one line that says why it is not "done".
        series: SeriesInstanceUID of a DICOM scan.
        study: descriptions of its study and series, and the study's date.
        stats: times, memory and backend.
        warnings: reasons why the labels may be wrong.
        voxels: number of voxels of the scan.
        labels: one entry for each label of the bundle.
        preview: path of the picture, None where there is none.
        location: where the structures are in a whole scan, for a bundle that was trained on crops.
        out_of_domain: how unlike the training cases it is; None for a bundle that does not say what these are like.
    """

    input: str
    output: str | None
    status: Literal["done", "failed", "skipped"]
    reason: str = ""
    series: str | None = None
    study: str = ""
    stats: RunStats = field(default_factory=RunStats)
    voxels: int = 0
    labels: tuple[LabelVolume, ...] = ()
    preview: str | None = None
    warnings: tuple[str, ...] = ()
    location: Location | None = None
    out_of_domain: OutOfDomain | None = None

    @classmethod
    def failure(cls, path: Path, reason: str, series: str | None = None) -> CaseReport:
        """Return the report of a case without any result."""
        return cls(input=str(path), output=None, status="failed", reason=reason, series=series)


@dataclass(frozen=True)
class Report:
    """Report of a run; `run_batch` returns it when the run ends.

    Attributes:
        bundle: name, version, files of the weights, and SHA-256 of config and weights.
        device: device of the network, such as "cpu" or "cuda:0".
        backend: backend that ran it; all of them, where scans differ.
        precision: precision of the network.
        options: options of the run.
        hardware: as `describe_hardware` returns it.
        started: UTC, ISO 8601.
        finished: UTC, ISO 8601; None for a run that has not ended.
        interrupted: whether it stopped before its end.
        pending: inputs that have not run; empty for a finished run.
        cases: one entry an input, in the order of the plan.

    Example:
        >>> import tomoseg
        >>> report = tomoseg.segment_batch("hippocampus", ["scans"], "results")
        >>> report.backend, [sorted(case.stats.seconds) != [] for case in report.cases], report.failed
        ('openvino', [True], [])
    """

    bundle: dict[str, str]
    device: str
    backend: str
    precision: str
    options: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    started: str = field(default_factory=utc_now)
    finished: str | None = None
    interrupted: bool = False
    pending: tuple[str, ...] = ()
    cases: tuple[CaseReport, ...] = ()

    @property
    def failed(self) -> list[CaseReport]:
        """Cases that failed."""
        return [case for case in self.cases if case.status == "failed"]

    def doubtful(self, min_dice: float) -> list[tuple[CaseReport, LabelVolume]]:
        """Return the labels whose expected Dice is below a limit, worst first, with their cases."""
        found = [(row.expected_dice, case, row) for case in self.cases for row in case.labels]
        low = [(dice, case, row) for dice, case, row in found if dice is not None and dice < min_dice]
        return [(case, row) for _, case, row in sorted(low, key=lambda one: one[0])]

    def save_review(self, path: Path, min_dice: float) -> None:
        """Write the labels of `doubtful` as CSV, atomically; the columns are `REVIEW_COLUMNS`.

        Args:
            path: of the file.
            min_dice: the limit, from 0 to 1.

        Raises:
            OutputError: it cannot be written.
        """
        low = self.doubtful(min_dice)
        rows = ((case.input, case.output, *_statistics(row)[:3], *_statistics(row)[13:16]) for case, row in low)
        write_csv(path, REVIEW_COLUMNS, rows)

    def save(self, path: Path) -> None:
        """Write the report as JSON, atomically.

        One object: "schema_version", "tomoseg" and "python" (versions), "packages" (versions of those that are
        installed), "system", then the fields of `Report` by their names; `schemas/report.schema.json` describes it.
        None here is null there.

        Raises:
            OutputError: it cannot be written.
        """
        python, system = platform.python_version(), platform.platform()
        versions = {"tomoseg": __version__, "python": python, "packages": installed_packages(), "system": system}
        cases = tuple(map(_writable, self.cases))  # one that cannot be written does not take the others with it
        write_json(path, {**versions, **asdict(replace(self, cases=cases))})

    def save_statistics(self, path: Path) -> None:
        """Write the measures of each label as CSV, one row a case and label, atomically.

        The columns are `STATISTICS_COLUMNS`: as in `LabelVolume`, with the box `[first, stop)` axis by axis and "yes"
        or "no" for the border. Structures that were found in a whole scan have a row of their own, without a label,
        with the values of `Location`. A cell without a value is empty.

        Raises:
            OutputError: it cannot be written.
        """
        rows = ((case, (*map(_statistics, case.labels), *_regions(case.location))) for case in self.cases)
        write_csv(path, STATISTICS_COLUMNS, ((case.input, *row) for case, found in rows for row in found))


def _writable(case: CaseReport) -> CaseReport:
    """Return a case, or why it is none that JSON can hold."""
    try:
        format_json(asdict(case))
    except (TypeError, ValueError) as error:
        return replace(CaseReport.failure(Path(case.input), f"{case.input}: {one_line(error)}"), output=case.output)
    return case


def _statistics(row: LabelVolume) -> tuple[object, ...]:
    numbers = (row.mean, row.sd, row.expected_dice, row.expected_dice_low, row.presence)
    mean, sd, *expected = ("" if value is None else f"{value:.6g}" for value in numbers)
    box = (*(row.first or ("",) * 3), *(row.stop or ("",) * 3))
    border = "yes" if row.touches_border else "no"
    return (row.label, row.name, row.voxels, f"{row.volume_ml:.6g}", mean, sd, *box, border, *expected, *("",) * 3)


def _regions(location: Location | None) -> Iterator[tuple[object, ...]]:
    if location is None:
        return
    for region in location.regions:
        relative = (region.per_icv, location.icv_ml, location.asymmetry_percent)
        shown = ("" if value is None else f"{value:.6g}" for value in relative)
        yield ("", region.name, region.voxels, f"{region.volume_ml:.6g}", *("",) * 12, *shown)

"""Inspect a labelled dataset: its properties and its errors."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tomoseg.core.errors import UsageError, one_line, some
from tomoseg.core.json_records import to_json
from tomoseg.data.datasets import DESCRIPTION, PARTS, TEST, Dataset, Pair
from tomoseg.data.formats import strip_suffix
from tomoseg.data.inspection.scan import Inspector, ScanFindings, compare_grids
from tomoseg.data.scan_files import note_outside
from tomoseg.data.splits import read_splits


@dataclass(frozen=True)
class CaseFindings:
    """Findings of one case of a dataset.

    Attributes:
        name: of its label map's file, suffix left out, else of its scan's.
        part: "training", "validation" or "test".
        image, label: None where there is none.
        same_grid: whether both lie on one grid; None if unknown.
        errors, notes: on both together; each has its own, too.
    """

    name: str
    part: str
    image: ScanFindings | None
    label: ScanFindings | None
    same_grid: bool | None = None
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def scans(self) -> tuple[ScanFindings, ...]:
        """Findings of the image and of the label map, as far as they were read."""
        return tuple(scan for scan in (self.image, self.label) if scan is not None)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors and not any(scan.errors for scan in self.scans)

    def as_json(self) -> Any:
        """Return the findings as `check --json` prints them."""
        return to_json({"ok": self.ok, **vars(self)})


@dataclass(frozen=True)
class LabelFindings:
    """Where one label was found.

    Attributes:
        value: in the label maps.
        name: None where dataset.json has none.
        cases: number of those in which it occurs.
        annotated_cases: number of those in which it was drawn, as far as dataset.json says.
        voxels, volume_ml: in all cases together.
    """

    value: int
    name: str | None
    cases: int
    annotated_cases: int
    voxels: int
    volume_ml: float


@dataclass(frozen=True)
class DatasetFindings:
    """Findings of a labelled dataset.

    Attributes:
        path: its folder.
        modality: None where it does not say.
        cases: those with a label map, then those without, then those for tests.
        labels: by value, background left out; those that dataset.json names, and those that were found. Empty where
            voxels were not read.
        errors, notes: on the whole; each case has its own, too.
        has_scans: whether it has more than label maps.
    """

    path: Path
    modality: str | None = None
    cases: tuple[CaseFindings, ...] = ()
    labels: tuple[LabelFindings, ...] = ()
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    has_scans: bool = True

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors and all(case.ok for case in self.cases)

    @property
    def images(self) -> tuple[ScanFindings, ...]:
        """Findings of all images."""
        return tuple(case.image for case in self.cases if case.image is not None)

    def count(self, part: str) -> int:
        """Return the number of pairs in a part, or of scans in "test"; of label maps where there is nothing else."""
        cases = [case for case in self.cases if case.part == part]
        if part == TEST:
            return sum(case.image is not None for case in cases)
        return sum(bool(case.label and (case.image or not self.has_scans)) for case in cases)

    def as_json(self) -> Any:
        """Return the findings as `check --json` prints them."""
        counts = {part: self.count(part) for part in (*PARTS, TEST)}
        content: dict[str, Any] = {"ok": self.ok, "counts": counts, "images": summarise_scans(self.images)}
        return content | to_json({key: value for key, value in vars(self).items() if key != "has_scans"})


def summarise_scans(scans: Sequence[ScanFindings]) -> dict[str, Any]:
    """Return as JSON how many scans have which format, type and orientation, and the range of the rest.

    Shapes are in voxels and spacings in mm along the array axes; values are of those scans whose voxels were read.
    """
    grids = [scan.grid for scan in scans if scan.grid is not None]
    voxels = [scan.voxels for scan in scans if scan.voxels is not None]
    minima = [found.minimum for found in voxels if found.minimum is not None]
    maxima = [found.maximum for found in voxels if found.maximum is not None]
    return {
        "formats": _count(scan.format for scan in scans if scan.grid),
        "dtypes": _count(scan.dtype for scan in scans if scan.grid),
        "orientations": _count(grid.orientation for grid in grids),
        "shape": _ranges([grid.shape for grid in grids]),
        "spacing_mm": _ranges([grid.spacing for grid in grids]),
        "values": {"minimum": min(minima), "maximum": max(maxima)} if minima else None,
    }


def inspect_dataset(dataset: Dataset, inspector: Inspector) -> DatasetFindings:
    """Look at all files of a dataset, one after the other."""
    cases = [_inspect_pair(pair, dataset, inspector) for pair in dataset.pairs]
    for path in dataset.images_without_label:
        (image,) = inspector.look_at(path, "image", dataset.modality, channels=len(dataset.channels))
        cases.append(CaseFindings(strip_suffix(path.name), PARTS[0], image, None, errors=("no label map",)))
    for path in dataset.labels_without_image:
        (label,) = inspector.look_at(path, "label")
        cases.append(CaseFindings(strip_suffix(path.name), PARTS[0], None, label, errors=("no scan",)))
    for path in dataset.test:
        (image,) = inspector.look_at(path, "image", dataset.modality, channels=len(dataset.channels))
        cases.append(CaseFindings(strip_suffix(path.name), TEST, image, None))
    errors = [f"{path}: no such file, though {DESCRIPTION} lists it" for path in dataset.missing]
    try:
        read_splits(dataset.root)
    except UsageError as error:
        errors.append(one_line(error))
    notes = []
    if not dataset.has_scans:
        notes.append("no scans, label maps only: `tomoseg plan --synthetic 1` draws the images of a training from them")
    paths = (path for pair in dataset.pairs for path in (pair.image, *pair.other_channels, pair.label))
    notes += note_outside(paths, dataset.root, "the dataset")
    if dataset.unlisted:
        names = [str(path.relative_to(dataset.root)) for path in dataset.unlisted]
        notes.append(f"{len(names)} files are not listed in {DESCRIPTION}: {some(names)}")
    labels: tuple[LabelFindings, ...] = ()
    if inspector.voxels:
        labels = _collect_labels(dataset, cases)
        nowhere = [f"{label.name} ({label.value})" for label in labels if not label.cases]
        if nowhere:
            notes.append(f"no case has {some(nowhere)}, which {DESCRIPTION} names")
    return DatasetFindings(
        dataset.root, dataset.modality, tuple(cases), labels, tuple(errors), tuple(notes), dataset.has_scans
    )


def _inspect_pair(pair: Pair, dataset: Dataset, inspector: Inspector) -> CaseFindings:
    names = dataset.channels
    image: ScanFindings | None = None
    if pair.has_scan:
        (image,) = inspector.look_at(pair.image, "image", dataset.modality, channels=len(names))
    (label,) = inspector.look_at(pair.label, "label")
    errors: list[str] = []
    notes: list[str] = []
    grid, channels = (None, 0) if image is None else (image.grid, image.channels)
    for path in pair.other_channels:
        (other,) = inspector.look_at(path, "image", dataset.modality)
        channels += other.channels
        errors.extend(f"{path.name}: {problem}" for problem in other.errors)
        notes.extend(f"{path.name}: {note}" for note in other.notes)
        if grid is not None and other.grid is not None and not other.grid.matches(grid):
            errors.append(f"{path.name}: not on the grid of {pair.image.name}, though both are channels of one scan")
    if image is not None and image.readable and channels != len(names):
        errors.append(f"expected {len(names)} channels ({', '.join(names)}), got {channels}")
    same = None
    if grid is not None and label.grid is not None:
        apart, rounding = compare_grids(grid, label.grid)
        same = not apart
        errors += apart
        notes += rounding
    if label.voxels is not None and label.voxels.values is not None and dataset.label_names:
        present = {value for value in label.voxels.values if value > 0}
        unknown = sorted(present - set(dataset.label_names))
        if unknown:
            table = DESCRIPTION if (dataset.root / DESCRIPTION).exists() else "--label-names"
            errors.append(f"the label map holds {some(unknown)}, which {table} does not name")
        notes.extend(_contradictions(pair, {dataset.label_names[value] for value in present if value not in unknown}))
    return CaseFindings(pair.name, pair.part, image, label, same, tuple(errors), tuple(notes))


def _contradictions(pair: Pair, present: set[str]) -> list[str]:
    """Return where the label map has not what dataset.json says was drawn."""
    if pair.annotated is None:
        return []
    drawn = set(pair.annotated)
    reported = (
        (drawn - present, "says that {} was drawn, but no voxel has it"),
        (present - drawn, "does not say that {} was drawn, but voxels have it"),
    )
    return [f"{DESCRIPTION} {text.format(some(sorted(names)))}" for names, text in reported if names]


def _collect_labels(dataset: Dataset, cases: Sequence[CaseFindings]) -> tuple[LabelFindings, ...]:
    """Return where each label was found."""
    occurrences: Counter[int] = Counter()
    counts: Counter[int] = Counter()
    volumes: dict[int, float] = defaultdict(float)
    for case in cases:
        if case.label is None or case.label.voxels is None or case.label.grid is None:
            continue
        for value, count in (case.label.voxels.values or {}).items():
            occurrences[value] += 1
            counts[value] += count
            volumes[value] += count * case.label.grid.voxel_volume_ml
    drawn = Counter(name for pair in dataset.pairs for name in pair.annotated or ())
    everywhere = sum(pair.annotated is None for pair in dataset.pairs)
    labels = []
    for value in sorted({*counts, *dataset.label_names} - {0}):
        name = dataset.label_names.get(value)
        annotated = len(dataset.pairs) if name is None else everywhere + drawn[name]
        labels.append(
            LabelFindings(value, name, occurrences[value], annotated, counts[value], round(volumes[value], 6))
        )
    return tuple(labels)


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _ranges(rows: Sequence[Sequence[float]]) -> dict[str, list[float]] | None:
    """Return the smallest, the middle and the largest of each column."""
    if not rows:
        return None
    columns = np.array(rows)
    return {
        name: np.round(function(columns, axis=0), 6).tolist()
        for name, function in (("minimum", np.min), ("median", np.median), ("maximum", np.max))
    }

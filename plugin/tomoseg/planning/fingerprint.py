"""What a labelled dataset is like, in the few numbers that the rules of planning read."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import NDArray

from tomoseg.data.datasets import UNNAMED_CHANNELS, Dataset, Pair
from tomoseg.data.geometry import Grid
from tomoseg.data.inspection.scan import OnScan
from tomoseg.data.read import read_volume
from tomoseg.data.volume import Volume
from tomoseg.planning.network import triple

MIN_CASES_WITH_BOTH = 3  # that must have both labels: two may lie so by chance
MIN_AGREEING_SHARE = 0.95  # of these cases
MIN_SIDEWAYS_RATIO = 2.0  # of the way between the centres from left to right to that along other axes
MAX_VOLUME_RATIO = 2.0  # the larger volume is at most so many times the smaller

MAX_INTENSITIES = 10_000  # of a case, evenly spread over the foreground
INTENSITY_PERCENTILES = (0.5, 99.5)  # nnU-Net's limits of CT intensities
USUAL_VOLUME_PERCENTILES = (5, 95)  # percentiles of the volumes of a label
MIN_LABELS_FOR_RANGE = 5  # whole labels, for a range of volumes
MAX_ABSENT_SHARE = 0.05  # of the cases in which a label would have been drawn; beyond that its absence is nothing odd


@dataclass(frozen=True)
class LabelPlace:
    """Where one label lies in one case.

    Attributes:
        voxels: how many there are.
        volume_ml: their volume.
        centre_mm: their centre of mass, RAS+ mm.
        whole: whether none of them lies at the scan's border.
    """

    voxels: int
    volume_ml: float
    centre_mm: tuple[float, float, float]
    whole: bool = True


@dataclass(frozen=True, eq=False)
class CasePrint:
    """One case, its axes in the order right, anterior, superior.

    Attributes:
        shape: voxels.
        spacing_mm: mm.
        zeros: share of the scan's voxels that are 0.
        intensities: (≤ `MAX_INTENSITIES`,) of the foreground.
        labels: where each label lies, by its value; those that do not occur are left out.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    zeros: float
    intensities: NDArray[np.float32]
    labels: dict[int, LabelPlace]


@dataclass(frozen=True)
class LabelPrint:
    """One label over all cases.

    Attributes:
        value: in the label maps.
        name: as the dataset calls it.
        cases: number of cases in which it occurs.
        annotated: number of cases in which it was drawn, as far as the dataset says.
        median_ml: median volume where it occurs.
        low_ml, high_ml: 5th and 95th percentile of the volumes of those that were drawn and lie within the scan as a
            whole; the lower is 0 where the label is often absent though it would have been drawn. None for too few.
    """

    value: int
    name: str
    cases: int = 0
    annotated: int = 0
    median_ml: float = 0.0
    low_ml: float | None = None
    high_ml: float | None = None


@dataclass(frozen=True)
class Fingerprint:
    """A labelled dataset in numbers; axes in the order right, anterior, superior, lengths in mm.

    Attributes:
        cases: number of training cases.
        validation_cases: number of those that the dataset itself keeps for validation.
        median_shape, largest_shape: voxels of the scans in their own grids.
        median_spacing_mm, coarse_spacing_mm, finest_spacing_mm: median, 10th percentile and minimum along each axis.
        median_extent_mm, largest_extent_mm: length of the scans.
        zeros: median share of voxels that are 0; NaN without scans, as are the intensities.
        intensity_mean, intensity_sd, intensity_low, intensity_high: of the foreground; low and high are the 0.5th and
            the 99.5th percentile.
        labels: by value, background left out.
        partial: whether some cases have labels that were not drawn.
        opposite: pairs of label values that lie left and right of each other.
        channels: names of the scans' channels.
    """

    cases: int
    validation_cases: int
    median_shape: tuple[int, int, int]
    largest_shape: tuple[int, int, int]
    median_spacing_mm: tuple[float, float, float]
    coarse_spacing_mm: tuple[float, float, float]
    finest_spacing_mm: tuple[float, float, float]
    median_extent_mm: tuple[float, float, float]
    largest_extent_mm: tuple[float, float, float]
    zeros: float
    intensity_mean: float
    intensity_sd: float
    intensity_low: float
    intensity_high: float
    labels: tuple[LabelPrint, ...]
    partial: bool
    opposite: tuple[tuple[int, int], ...]
    channels: tuple[str, ...] = UNNAMED_CHANNELS

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it, without NaN; no case is named in it, nor a channel that is the only one."""
        content = {key: value for key, value in asdict(self).items() if value == value}  # not NaN
        return content if len(self.channels) > 1 else {key: content[key] for key in content if key != "channels"}


def take_fingerprint(dataset: Dataset, names: dict[int, str], on_scan: OnScan | None = None) -> Fingerprint:
    """Read all scans and label maps of a dataset, one pair at a time.

    Args:
        dataset: one that `require_trainable` found sound.
        names: of the labels, by value; voxels of other values (an ignore label) are left out.
        on_scan: called with the path of each scan before it is read.
    """
    prints: list[CasePrint] = []
    for pair in dataset.pairs:
        if on_scan is not None:
            on_scan(pair.image)
        label = read_volume(pair.label)
        image = read_volume(pair.source, channels=len(dataset.channels)) if pair.has_scan else label  # for its grid
        prints.append(print_case(image, label, set(names)))
    spacings = np.array([case.spacing_mm for case in prints])
    shapes = np.array([case.shape for case in prints])
    training = [pair for pair in dataset.pairs if pair.part == "training"]
    return Fingerprint(
        cases=len(training),
        validation_cases=len(dataset.pairs) - len(training),
        median_shape=triple(math.ceil(size) for size in np.median(shapes, axis=0)),
        largest_shape=triple(map(int, shapes.max(axis=0))),
        median_spacing_mm=_lengths(np.median(spacings, axis=0)),
        coarse_spacing_mm=_lengths(np.percentile(spacings, 10, axis=0)),
        finest_spacing_mm=_lengths(spacings.min(axis=0)),
        median_extent_mm=_lengths(np.median(shapes * spacings, axis=0)),
        largest_extent_mm=_lengths((shapes * spacings).max(axis=0)),
        **_print_intensities(prints if dataset.has_scans else []),
        labels=tuple(_print_label(value, name, dataset.pairs, prints) for value, name in sorted(names.items())),
        partial=any(pair.annotated is not None and set(names.values()) - set(pair.annotated) for pair in dataset.pairs),
        opposite=find_opposite([case.labels for case in prints]),
        channels=dataset.channels,
    )


def print_case(image: Volume, label: Volume, values: set[int]) -> CasePrint:
    """Return what one case is like.

    Args:
        image: the scan.
        label: its label map, on the same grid.
        values: the labels that count.
    """
    order = np.argsort(io_orientation(image.grid.affine)[:, 0])
    labels = np.rint(label.array).astype(np.int32)
    foreground = image.array[np.isin(labels, sorted(values))]
    # none of a case without any label, which has no foreground
    chosen = np.linspace(0, max(foreground.size - 1, 0), min(MAX_INTENSITIES, foreground.size)).round().astype(np.intp)
    return CasePrint(
        shape=triple(int(image.grid.shape[axis]) for axis in order),
        spacing_mm=triple(float(image.grid.spacing[axis]) for axis in order),
        zeros=1 - np.count_nonzero(image.array) / image.array.size,
        intensities=foreground[chosen],
        labels={value: place for value in sorted(values) if (place := _place(labels == value, image.grid))},
    )


def _place(mask: NDArray[np.bool_], grid: Grid) -> LabelPlace | None:
    voxels = np.argwhere(mask)
    if not len(voxels):
        return None
    x, y, z, _ = (grid.affine @ np.append(voxels.mean(axis=0), 1.0)).tolist()
    whole = bool((voxels.min(axis=0) > 0).all() and (voxels.max(axis=0) < np.array(mask.shape) - 1).all())
    return LabelPlace(len(voxels), len(voxels) * grid.voxel_volume_ml, (x, y, z), whole)


def _print_intensities(prints: Sequence[CasePrint]) -> dict[str, float]:
    """Return the fields of a fingerprint that are about intensities; NaN where there is no scan."""
    fields = ("zeros", "intensity_mean", "intensity_sd", "intensity_low", "intensity_high")
    if not prints:
        return dict.fromkeys(fields, math.nan)
    values = np.concatenate([case.intensities for case in prints]).astype(np.float64)
    found = (values.mean(), values.std(), *np.percentile(values, INTENSITY_PERCENTILES))
    zeros = round(float(np.median([case.zeros for case in prints])), 4)
    return dict(zip(fields, (zeros, *(_round(float(value)) for value in found)), strict=True))


def _print_label(value: int, name: str, pairs: Sequence[Pair], prints: Sequence[CasePrint]) -> LabelPrint:
    volumes = [case.labels[value].volume_ml for case in prints if value in case.labels]
    median = _round(float(np.median(volumes))) if volumes else 0.0
    drawn = [
        case.labels.get(value)
        for pair, case in zip(pairs, prints, strict=True)
        if pair.annotated is None or name in pair.annotated
    ]
    whole = [place.volume_ml for place in drawn if place is not None and place.whole]
    if len(whole) < MIN_LABELS_FOR_RANGE:
        return LabelPrint(value, name, len(volumes), len(drawn), median)
    often_absent = drawn.count(None) > MAX_ABSENT_SHARE * len(drawn)
    low, high = (_round(float(volume)) for volume in np.percentile(whole, USUAL_VOLUME_PERCENTILES))
    return LabelPrint(value, name, len(volumes), len(drawn), median, 0.0 if often_absent else low, high)


def _round(value: float) -> float:
    """Return a value with 6 significant digits, so that a sum in another order gives the same bundle."""
    return 0.0 if value == 0 else round(value, 5 - math.floor(math.log10(abs(value))))


def _lengths(values: NDArray[Any]) -> tuple[float, float, float]:
    return triple(_round(float(value)) for value in values)


def find_opposite(cases: Sequence[Mapping[int, LabelPlace]]) -> tuple[tuple[int, int], ...]:
    """Return the pairs of labels that lie beside each other, always in the same order from left to right.

    Args:
        cases: where each label lies, by its value.
    """
    found = []
    for one, other in combinations(sorted({value for case in cases for value in case}), 2):
        both = [(case[one], case[other]) for case in cases if one in case and other in case]
        if len(both) < MIN_CASES_WITH_BOTH:
            continue
        beside = [_direction(*pair) for pair in both]
        if max(beside.count(1), beside.count(-1)) >= MIN_AGREEING_SHARE * len(both):
            found.append((one, other))
    return tuple(found)


def _direction(one: LabelPlace, other: LabelPlace) -> int:
    """Return 1 or -1 if the second label lies right or left of the first and is about as large, else 0."""
    x, y, z = (b - a for a, b in zip(one.centre_mm, other.centre_mm, strict=True))
    larger, smaller = max(one.volume_ml, other.volume_ml), min(one.volume_ml, other.volume_ml)
    if larger > MAX_VOLUME_RATIO * smaller or abs(x) < MIN_SIDEWAYS_RATIO * max(abs(y), abs(z)):
        return 0
    return 1 if x > 0 else -1

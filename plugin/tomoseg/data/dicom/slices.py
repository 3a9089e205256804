"""Where the slices of a DICOM series lie: one regular grid, or an error that says why not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tomoseg.core.errors import GeometryError, VolumeError, errors_as
from tomoseg.core.reading import current_read_options
from tomoseg.data.geometry import Grid
from tomoseg.data.volume import LPS_TO_RAS, DicomFrame, by

COSINE_TOLERANCE = 1e-3  # what rounding to four decimals leaves
SPACING_TOLERANCE = 1e-3  # relative
SAME_PLACE_MM = 1e-3
# how far a slice may lie from where the regular grid has it, as a share of the slice spacing; reported above the first
NOTED_DEVIATION, MAX_DEVIATION = 0.01, 0.1
ROUNDING_MM = 0.06  # positions are often written with one decimal
MIN_ALIKE, MAX_ODD_SHARE = 3, 0.1  # images of one kind, beside which few of another are left out
MAX_WIDE_SHARE = 0.2  # of the gaps: more wide ones are no missing slices, but another spacing
# what may not change within one volume; de-identification may leave each image a UID of its own
UIDS_OF_ALL = ("SeriesInstanceUID", "FrameOfReferenceUID")
EQUAL_KEYWORDS = (
    *UIDS_OF_ALL, "EchoTime", "InversionTime", "FlipAngle", "DiffusionBValue", "TemporalPositionIdentifier",
    "ConvolutionKernel",
)  # fmt: skip
OF_ONE_IMAGE = ("ContentTime", "DimensionIndexValues", "InstanceNumber")  # no two images have them alike
EQUAL_TOLERANCE = 0.01  # relative, of those that are numbers
NOTED_TILT_DEGREES = 0.1


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice of a series.

    Attributes:
        frame: where its pixels are.
        position: (3,) LPS mm, centre of the first pixel.
        row, column: (3,) directions, LPS, in which the column index and the row index grow.
        spacing: mm between neighbouring (rows, columns).
        size: number of (rows, columns).
        slope, intercept: to be applied to the stored values.
        traits: elements that distinguish it from others at the same place, by keyword.
        place: index on the third axis of the series' grid; no whole number where the spacing is uneven.
    """

    frame: DicomFrame
    position: NDArray[np.float64]
    row: NDArray[np.float64]
    column: NDArray[np.float64]
    spacing: tuple[float, float]
    size: tuple[int, int]
    slope: float
    intercept: float
    traits: dict[str, str]
    place: float = 0.0


@dataclass(frozen=True, eq=False)
class Arrangement:
    """The slices of a series in the order of their places, and the grid that they make.

    Attributes:
        slices: each with its place on the grid's third axis.
        grid: its slices may be more than there are images, if gaps were to be filled.
        notes: on the grid.
        warnings: which images were left out, and where gaps were filled.
    """

    slices: tuple[Slice, ...]
    grid: Grid
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def arrange(slices: Sequence[Slice], name: str, odd: Sequence[VolumeError] = ()) -> Arrangement:
    """Return the slices in the order of their places, and the grid that they make.

    The order is that of the positions along row × column, independent of file names and instance numbers
    (https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_C.7.6.2.html). With a tilted gantry the grid
    is sheared, and so exact; nothing is resampled unless gaps are to be filled. Few images of another kind are left
    out, if the others make a grid.

    Args:
        slices: at least one.
        name: what errors call the series.
        odd: for each image of the series that is no slice, why it is none.

    Raises:
        VolumeError: they differ in size, spacing or direction, lie at one place, leave a gap, or are spaced unevenly.
    """
    if not odd and not any(_difference(slices[0], one) for one in slices):
        return _arrange(slices, name)
    tried = slices[0], slices[len(slices) // 2], slices[-1]
    usual = min(tried, key=lambda one: sum(bool(_difference(one, other)) for other in slices))
    others = [(one, why) for one in slices if (why := _difference(usual, one))]
    alike = [one for one in slices if not _difference(usual, one)]
    expected = f"{name}: expected slices of one series to be alike, got"
    error = odd[0] if odd else VolumeError(f"{expected} {others[0][1]} ({others[0][0].frame.path.name})")
    if len(alike) < MIN_ALIKE or len(others) > max(1, MAX_ODD_SHARE * len(alike)) or len(odd) > len(alike):
        raise error
    left_out = [f"{one.frame.path}: {why}" for one, why in others] + [str(one) for one in odd]
    try:
        found = _arrange(alike, name)
    except VolumeError as rest:
        raise VolumeError(f"{error}; without it: {str(rest).removeprefix(f'{name}: ')}") from None
    return replace(found, warnings=(*(f"left out of the series: {one}" for one in left_out), *found.warnings))


def _arrange(slices: Sequence[Slice], name: str) -> Arrangement:
    """Return slices that are alike in order, and their grid."""
    _require_one_image(slices, name)
    first = slices[0]
    normal = np.cross(first.row, first.column)
    ordered = sorted(slices, key=lambda one: float(one.position @ normal))
    positions = np.array([one.position for one in ordered])
    heights = positions @ normal
    gaps = np.diff(heights)
    if gaps.min() < SAME_PLACE_MM:
        raise VolumeError(f"{name}: {_same_place(ordered, gaps)}")
    notes, warnings = [], []
    even = np.arange(len(ordered), dtype=np.float64)
    for places in (even, _places(heights, gaps)):
        # a least-squares fit: positions that were rounded pull its ends less than they pull two slices
        step, origin = np.polyfit(places, positions, 1)
        spacing = float(step @ normal)
        deviation = float(np.linalg.norm(positions - (origin + np.outer(places, step)), axis=1).max())
        if deviation <= max(MAX_DEVIATION * spacing, ROUNDING_MM) and places[-1] < 2 * len(places):
            break
    else:
        raise VolumeError(f"{name}: {_uneven(gaps, heights, deviation)}. Resample it first")
    if places is not even:
        reported = _uneven(gaps, heights, deviation)
        if not current_read_options().fill_gaps:
            raise VolumeError(f"{name}: {reported}. Fetch the series again, or pass --fill-gaps to interpolate slices")
        warnings.append(f"{reported}: the slices of a grid of {spacing:.3g} mm are interpolated")
    if deviation > NOTED_DEVIATION * spacing:
        notes.append(
            f"its slices lie up to {deviation:.3g} mm off an even spacing of {spacing:.3g} mm, which is assumed"
        )
    tilt = float(np.degrees(np.arctan2(np.linalg.norm(step - spacing * normal), spacing)))
    if tilt > NOTED_TILT_DEGREES:
        notes.append(f"its gantry is tilted by {tilt:.1f}°: the labels lie in the same sheared grid, not resampled")
    affine = np.eye(4)
    affine[:3] = np.column_stack([first.row * first.spacing[1], first.column * first.spacing[0], step, origin])
    rows, columns = first.size
    with errors_as(VolumeError, name, GeometryError, remedy="; its headers are damaged"):
        grid = Grid((columns, rows, round(places[-1]) + 1), LPS_TO_RAS @ affine)
    placed = tuple(replace(one, place=place) for one, place in zip(ordered, places.tolist(), strict=True))
    return Arrangement(placed, grid, tuple(notes), tuple(warnings))


def _places(heights: NDArray[np.float64], gaps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where slices lie on the third axis of a grid of the usual spacing: first and last at whole indices."""
    count = np.maximum(np.round(gaps / np.median(gaps)), 1).sum()
    places = (heights - heights[0]) / (heights[-1] - heights[0]) * count
    whole = np.round(places)
    missing_only = np.abs(places - whole).max() < MAX_DEVIATION and np.diff(whole).min() > 0
    return np.asarray(whole if missing_only else places)


def choose_phase(slices: Sequence[Slice], phase: str, name: str) -> list[Slice]:
    """Return the slices with a value of a trait.

    Args:
        slices: of one series.
        phase: "KEYWORD=VALUE".
        name: what errors call the series.

    Raises:
        VolumeError: there is none, or the phase is not written so.
    """
    key, _, wanted = phase.partition("=")
    known = sorted({one.traits[key] for one in slices if key in one.traits}, key=lambda value: (len(value), value))
    chosen = [one for one in slices if wanted and _same_value(one.traits.get(key, ""), wanted)]
    if not chosen:
        keys = {key for one in slices for key in one.traits if len({other.traits.get(key) for other in slices}) > 1}
        listed = (
            f"{key} is {', '.join(known)}" if known else f"its images differ in {', '.join(sorted(keys)) or 'nothing'}"
        )
        raise VolumeError(
            f"{name}: expected images with {phase}, got none: {listed}. Choose one with --phase KEYWORD=VALUE"
        )
    return chosen


def _same_value(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return one == other


def _difference(one: Slice, other: Slice) -> str:
    """Return the difference between slices of two kinds; nothing if they are alike."""
    if one.size != other.size:
        return f"images of {by(one.size)} and of {by(other.size)} pixels"
    if not np.allclose(one.spacing, other.spacing, rtol=SPACING_TOLERANCE, atol=0):
        sizes = (f"{rows:g}×{columns:g} mm" for rows, columns in (one.spacing, other.spacing))
        return f"pixels of {' and of '.join(sizes)}"
    if max(np.abs(one.row - other.row).max(), np.abs(one.column - other.column).max()) > COSINE_TOLERANCE:
        return "images of several directions"
    return ""


def _require_one_image(slices: Sequence[Slice], name: str) -> None:
    """Refuse images of several acquisitions, even where each has a place of its own."""
    for key in EQUAL_KEYWORDS:
        values = sorted({one.traits[key] for one in slices if one.traits.get(key)})
        scattered = key in UIDS_OF_ALL and len(values) == len(slices) >= MIN_ALIKE
        if len(values) < 2 or (scattered and current_read_options().one_series):
            continue
        if scattered:
            remedy = "Pass --one-series to take them together"
            raise VolumeError(f"{name}: each of its {len(values)} images has a {key} of its own. {remedy}")
        try:
            numbers = [float(value) for value in values]
        except ValueError:
            numbers = []
        if not numbers or max(numbers) - min(numbers) > EQUAL_TOLERANCE * max(map(abs, numbers)):
            raise VolumeError(
                f"{name}: expected one acquisition in a series, got images with {key} {' and '.join(values[:3])}; "
                f"choose one with --phase {key}={values[0]}"
            )


def _same_place(ordered: Sequence[Slice], gaps: NDArray[np.float64]) -> str:
    index = int(gaps.argmin())
    count = int((gaps < SAME_PLACE_MM).sum())
    one, other = ordered[index].traits, ordered[index + 1].traits
    apart = [f"{key} {one.get(key)} and {other.get(key)}" for key in {**one, **other} if one.get(key) != other.get(key)]
    expected = (
        f"expected one image at each place, got {count + 1 if count == 1 else count} or more at the same places; "
    )
    reported = f"they differ in {', '.join(apart[:3])}" if apart else "their headers do not distinguish them"
    keys = [key for key in one if key not in OF_ONE_IMAGE and one[key] != other.get(key)]
    remedy = f"choose one with --phase {keys[0]}={one[keys[0]]}" if keys else "split the series first"
    return f"{expected}{reported}; {remedy}"


def _uneven(gaps: NDArray[np.float64], heights: NDArray[np.float64], deviation: float) -> str:
    usual = float(np.median(gaps))
    times = gaps / usual
    wide = np.flatnonzero(times > 1.5)
    if 0 < wide.size <= max(MAX_WIDE_SHARE * len(gaps), 1) and np.abs(times - np.round(times)).max() < MAX_DEVIATION:
        places = ", ".join(f"{heights[at]:.1f} and {heights[at + 1]:.1f} mm" for at in wide[:3])
        missing = int(np.round(times).sum()) - len(gaps)
        reported = "slice is" if missing == 1 else "slices are"
        return f"{missing} {reported} missing, between {places} along the slices' normal"
    if np.abs(times - 1).max() <= MAX_DEVIATION:
        return f"its slices do not lie on a straight line, but up to {deviation:.2f} mm off one"
    widest = " and ".join(f"{height:.1f}" for height in heights[gaps.argmax() :][:2])
    return f"its slices are {gaps.min():.3g} to {gaps.max():.3g} mm apart, the widest gap between {widest} mm"

"""Where the slices of a DICOM series lie: one regular grid, or an error that says why not."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomoseg.core.errors import GeometryError, VolumeError, errors_as
from tomoseg.data.geometry import Grid
from tomoseg.data.volume import LPS_TO_RAS, DicomFrame, by

COSINE_TOLERANCE = 1e-3  # what rounding to four decimals leaves
SPACING_TOLERANCE = 1e-3  # relative
SAME_PLACE_MM = 1e-3
# how far a slice may lie from where the regular grid has it, as a share of the slice spacing; reported above the first
NOTED_DEVIATION, MAX_DEVIATION = 0.01, 0.1
ROUNDING_MM = 0.06  # positions are often written with one decimal
MAX_WIDE_SHARE = 0.2  # of the gaps: more wide ones are no missing slices, but another spacing
# what may not change within one volume
EQUAL_KEYWORDS = (
    "EchoTime", "InversionTime", "FlipAngle", "DiffusionBValue", "TemporalPositionIdentifier", "ConvolutionKernel",
    "FrameOfReferenceUID",
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


def arrange(slices: Sequence[Slice], name: str) -> tuple[list[Slice], Grid, tuple[str, ...]]:
    """Return the slices in the order of their places, the grid that they make, and notes on it.

    The order is that of the positions along row × column, independent of file names and instance numbers
    (https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_C.7.6.2.html). With a tilted gantry the grid
    is sheared, and so exact; nothing is resampled.

    Raises:
        VolumeError: they differ in size, spacing or direction, lie at one place, leave a gap, or are spaced unevenly.
    """
    first = slices[0]
    for other in slices[1:]:
        _require_equal(first, other, name)
    _require_one_image(slices, name)
    normal = np.cross(first.row, first.column)
    ordered = sorted(slices, key=lambda one: float(one.position @ normal))
    positions = np.array([one.position for one in ordered])
    heights = positions @ normal
    gaps = np.diff(heights)
    if gaps.min() < SAME_PLACE_MM:
        raise VolumeError(f"{name}: {_same_place(ordered, gaps)}")
    # a least-squares fit: positions that were rounded pull its ends less than they pull two slices
    step, origin = np.polyfit(np.arange(len(ordered)), positions, 1)
    spacing = float(step @ normal)
    deviation = float(np.linalg.norm(positions - (origin + np.outer(np.arange(len(ordered)), step)), axis=1).max())
    if deviation > max(MAX_DEVIATION * spacing, ROUNDING_MM):
        raise VolumeError(f"{name}: {_uneven(gaps, heights, deviation)}")
    notes = []
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
        grid = Grid((columns, rows, len(ordered)), LPS_TO_RAS @ affine)
    return ordered, grid, tuple(notes)


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


def _require_equal(one: Slice, other: Slice, name: str) -> None:
    expected = "expected slices of one series to be alike"
    if one.size != other.size:
        raise VolumeError(f"{name}: {expected}, got images of {by(one.size)} and of {by(other.size)} pixels")
    if not np.allclose(one.spacing, other.spacing, rtol=SPACING_TOLERANCE, atol=0):
        sizes = " and of ".join(f"{rows:g}×{columns:g} mm" for rows, columns in (one.spacing, other.spacing))
        raise VolumeError(f"{name}: {expected}, got pixels of {sizes}")
    if max(np.abs(one.row - other.row).max(), np.abs(one.column - other.column).max()) > COSINE_TOLERANCE:
        raise VolumeError(f"{name}: {expected}, got images of several directions. Leave out the localizers")


def _require_one_image(slices: Sequence[Slice], name: str) -> None:
    """Refuse images of several acquisitions, even where each has a place of its own."""
    for key in EQUAL_KEYWORDS:
        values = sorted({one.traits[key] for one in slices if one.traits.get(key)})
        if len(values) < 2:
            continue
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
        return f"{missing} {reported} missing, between {places} along the slices' normal; fetch the series again"
    if np.abs(times - 1).max() <= MAX_DEVIATION:
        return f"its slices do not lie on a straight line, but up to {deviation:.2f} mm off one. Resample it first"
    return f"its slices are {gaps.min():.3g} to {gaps.max():.3g} mm apart, expected one spacing. Resample it first"

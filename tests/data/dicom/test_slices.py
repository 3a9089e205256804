"""Where a DICOM series lies: a regular grid, exactly, or one line that says why there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread

from support.dicoms import write_enhanced, write_series
from support.strategies import grids
from tomoseg import Grid, TomosegError, read_volume

SHAPE = (6, 5, 8)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def axial(spacing: float = 1.25, tilt: float = 0) -> Grid:
    """Slices towards the head, sheared to the back by `tilt` degrees."""
    affine = np.diag([-0.8, -0.9, spacing, 1])
    affine[1, 2] = -np.tan(np.radians(tilt)) * spacing
    affine[:3, 3] = 60, 70, -500
    return Grid(SHAPE, affine)


def ramp() -> Any:
    return np.arange(np.prod(SHAPE)).reshape(SHAPE).astype("int16")


def edit(path: Path, change: Callable[[Dataset], None]) -> None:
    dataset = dcmread(path)
    change(dataset)
    dataset.save_as(path)


def move(path: Path, by: tuple[float, float, float]) -> None:
    def change(dataset: Dataset) -> None:
        dataset.ImagePositionPatient = [float(a) + b for a, b in zip(dataset.ImagePositionPatient, by, strict=True)]

    edit(path, change)


def reason(folder: Path) -> str:
    """Return why a series makes no grid, without the folder, which stands first."""
    with pytest.raises(TomosegError) as caught:
        read_volume(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder}: ")
    assert "\n" not in message
    return message.removeprefix(f"{folder}: ")


@settings(max_examples=25, deadline=None)
@given(grids(), st.floats(-35, 35), st.floats(-35, 35), st.booleans())
def test_every_voxel_lies_where_its_slice_says(
    tmp_path_factory: pytest.TempPathFactory, plain: Grid, tilt: float, slew: float, enhanced: bool
) -> None:
    folder = tmp_path_factory.mktemp("tilt")
    affine = plain.affine.copy()
    # a tilted gantry, or one that is turned as well
    affine[:3, 2] += np.tan(np.radians(tilt)) * affine[:3, 1] + np.tan(np.radians(slew)) * affine[:3, 0]
    grid = Grid((*plain.shape[:2], min(plain.shape[2], 5)), affine)
    array = np.random.default_rng(0).integers(-999, 999, grid.shape).astype("int16")
    if enhanced:
        write_enhanced(folder / "all.dcm", array, grid)
    else:
        write_series(folder, array, grid)
    volume = read_volume(folder)
    assert volume.series is not None
    # the place of each voxel, from the elements of its own slice alone
    for k, frame in enumerate(volume.series.frames):
        dataset = dcmread(frame.path)
        position, cosines, spacing = places(dataset, frame.number)
        for i, j in ((0, 0), (grid.shape[0] - 1, 1), (1, grid.shape[1] - 1)):
            lps = position + cosines[:3] * spacing[1] * i + cosines[3:] * spacing[0] * j
            np.testing.assert_allclose((volume.grid.affine @ (i, j, k, 1))[:3], LPS_TO_RAS @ lps, atol=1e-6)
        np.testing.assert_array_equal(volume.array[:, :, k].T, pixels(dataset, frame.number))
    # the third axis follows row × column, so it may run against that of the grid
    flipped = np.linalg.det(affine[:3, :3]) < 0
    np.testing.assert_array_equal(volume.array, array[:, :, ::-1] if flipped else array)


def places(dataset: Dataset, number: int) -> tuple[Any, Any, Any]:
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        found = (dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing)
    else:
        shared = dataset.SharedFunctionalGroupsSequence[0]
        found = (
            dataset.PerFrameFunctionalGroupsSequence[number - 1].PlanePositionSequence[0].ImagePositionPatient,
            shared.PlaneOrientationSequence[0].ImageOrientationPatient,
            shared.PixelMeasuresSequence[0].PixelSpacing,
        )
    position, cosines, spacing = (np.array(value, float) for value in found)
    return position, cosines, spacing


def pixels(dataset: Dataset, number: int) -> Any:
    array = dataset.pixel_array
    return array if array.ndim == 2 else array[number - 1]


@pytest.mark.parametrize("tilt", [-22.5, 15.0])
def test_a_tilted_gantry_is_reported_and_its_grid_is_sheared(tmp_path: Path, tilt: float) -> None:
    write_series(tmp_path, ramp(), axial(tilt=tilt))
    volume = read_volume(tmp_path)
    assert volume.grid.matches(axial(tilt=tilt), tolerance_mm=1e-6)
    assert volume.notes == (
        f"its gantry is tilted by {abs(tilt):.1f}°: the labels lie in the same sheared grid, not resampled",
    )


@pytest.mark.parametrize("spacing", [1.25, 0.625])
def test_positions_that_are_rounded_are_even(tmp_path: Path, spacing: float) -> None:
    for path in write_series(tmp_path, ramp(), axial(spacing)):

        def change(dataset: Dataset) -> None:
            dataset.ImagePositionPatient = [round(float(value), 1) for value in dataset.ImagePositionPatient]

        edit(path, change)
    volume = read_volume(tmp_path)
    assert volume.grid.matches(axial(spacing), tolerance_mm=0.051)
    np.testing.assert_array_equal(volume.array, ramp())
    assert "off an even spacing of" in volume.notes[0]


@pytest.mark.parametrize(
    ("gone", "count", "place"), [([3], 1, "-497.5 and -495.0 mm"), ([2, 3], 2, "-498.8 and -495.0 mm")]
)
def test_missing_slices_are_counted_and_placed(tmp_path: Path, gone: list[int], count: int, place: str) -> None:
    paths = write_series(tmp_path, ramp(), axial())
    for k in gone:
        paths[k].unlink()
    reported = "slices are missing" if count > 1 else "slice is missing"
    assert reason(tmp_path).startswith(f"{count} {reported}, between {place} along")


def test_slices_of_two_spacings(tmp_path: Path) -> None:
    for k, path in enumerate(write_series(tmp_path, ramp(), axial())):
        move(path, (0, 0, 0.4 * k * k))
    heights = " and ".join(str(-500 + 1.25 * k + 0.4 * k * k)[:6] for k in (6, 7))
    remedy = "Fetch the series again, or pass --fill-gaps to interpolate slices"
    assert reason(tmp_path) == f"its slices are 1.65 to 6.45 mm apart, the widest gap between {heights} mm. {remedy}"


def test_slices_that_lie_on_no_line(tmp_path: Path) -> None:
    for k, path in enumerate(write_series(tmp_path, ramp(), axial())):
        move(path, (0.2 * k * k, 0, 0))
    assert "do not lie on a straight line, but up to 1.40 mm off one" in reason(tmp_path)


def test_two_images_at_one_place_are_kept_apart(tmp_path: Path) -> None:
    for number in (5, 10):
        write_series(tmp_path / str(number), ramp(), axial(), modality="MR", uid="1.2.3", AcquisitionNumber=number)
    reported = reason(tmp_path)
    assert reported.startswith("expected one image at each place, got 8 or more at the same places; they differ in ")
    assert "AcquisitionNumber 5 and 10" in reported or "AcquisitionNumber 10 and 5" in reported


@pytest.mark.parametrize(
    ("key", "values"),
    [("EchoTime", (5, 10)), ("ConvolutionKernel", ("B30f", "B70f")), ("FrameOfReferenceUID", ("1.2.7", "1.2.8"))],
)
def test_acquisitions_between_each_others_slices_are_no_volume(tmp_path: Path, key: str, values: Sequence[Any]) -> None:
    paths = write_series(tmp_path, ramp(), axial())
    for k, path in enumerate(paths):
        dataset = dcmread(path)
        setattr(dataset, key, values[k % 2])
        dataset.save_as(path)
    reported = reason(tmp_path)
    assert reported.startswith(f"expected one acquisition in a series, got images with {key} ")
    for path in paths:  # as far apart as rounding takes them, and no further
        dataset = dcmread(path)
        setattr(dataset, key, values[0])
        dataset.save_as(path)
    assert read_volume(tmp_path).notes == ()


def test_two_images_at_one_place_that_nothing_distinguishes(tmp_path: Path) -> None:
    paths = write_series(tmp_path, ramp(), axial(), InstanceNumber=1)

    def change(dataset: Dataset) -> None:
        dataset.ImagePositionPatient = dcmread(paths[3]).ImagePositionPatient

    edit(paths[4], change)
    assert "got 2 or more at the same places; their headers do not distinguish them" in reason(tmp_path)


@pytest.mark.parametrize(
    ("keyword", "value", "reported"),
    [
        ("PixelSpacing", [0.9, 0.7], "got pixels of 0.9×0.8 mm and of 0.9×0.7 mm"),
        ("ImageOrientationPatient", [0, 1, 0, 0, 0, -1], "got images of several directions"),
        ("Rows", 6, "got images of 5×6 and of 6×6 pixels"),
    ],
)
def test_slices_that_are_not_alike(tmp_path: Path, keyword: str, value: Any, reported: str) -> None:
    path = write_series(tmp_path, ramp(), axial())[3]
    edit(path, lambda dataset: setattr(dataset, keyword, value))
    expected = f"expected slices of one series to be alike, {reported} ({path.name}); without it: 1 slice is missing"
    assert reason(tmp_path).startswith(expected)


def test_what_rounding_does_to_directions_is_no_difference(tmp_path: Path) -> None:
    path = write_series(tmp_path, ramp(), axial())[3]
    edit(path, lambda dataset: setattr(dataset, "ImageOrientationPatient", [1, 0.0004, 0, -0.0004, 1, 0]))
    assert read_volume(tmp_path).grid.matches(Grid(SHAPE, axial().affine), tolerance_mm=0.01)


def test_a_slice_that_is_half_a_tenth_off_is_reported(tmp_path: Path) -> None:
    path = write_series(tmp_path, ramp(), axial())[3]
    move(path, (0, 0, 0.06))
    assert read_volume(tmp_path).notes == (
        "its slices lie up to 0.0521 mm off an even spacing of 1.25 mm, which is assumed",
    )

"""Series as archives and burners write them: scattered, copied, without what the standard asks for."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread

from support.dicoms import write_enhanced, write_series
from tomoseg import Grid, TomosegError, read_volume
from tomoseg.batch.cases import plan_cases
from tomoseg.data.discovery import find_scans
from tomoseg.data.header import read_headers
from tomoseg.data.nifti import write_label_map

GRID = Grid((9, 8, 12), np.diag([-0.9, -0.8, 1.25, 1.0]))
ARRAY = np.random.default_rng(3).integers(-900, 900, GRID.shape).astype(np.int16)


def change(path: Path, **elements: object) -> None:
    dataset = dcmread(path)
    for keyword, value in elements.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)


def scatter(folder: Path, uid: str, *shares: int, offset: int = 0) -> None:
    """Write a series whose slices lie in the folders D0, D1, … as the shares say."""
    paths = write_series(folder / "all", ARRAY + np.int16(offset), GRID, uid=uid)
    for index, share in enumerate(shares):
        place = folder / f"D{index}"
        place.mkdir(exist_ok=True)
        for path in [paths.pop() for _ in range(share)]:
            path.rename(place / f"{uid}.{path.name}")
    (folder / "all").rmdir()


def test_a_series_is_never_read_in_part(tmp_path: Path) -> None:
    scatter(tmp_path, "1.2.3", 12)
    scatter(tmp_path, "1.2.4", 4, 8)
    scans = find_scans(tmp_path)
    assert [(scan.path, scan.series) for scan in scans] == [(tmp_path, "1.2.4"), (tmp_path / "D0", "1.2.3")]
    for scan in scans:
        np.testing.assert_array_equal(read_volume(scan.path, scan.series).array, ARRAY)


def test_series_spread_over_the_same_folders_are_a_scan_each(tmp_path: Path) -> None:
    scatter(tmp_path / "in", "1.2.3", 6, 6)
    scatter(tmp_path / "in", "1.2.4", 6, 6, offset=1)
    one, other = plan_cases([tmp_path / "in"], tmp_path / "out")
    np.testing.assert_array_equal(read_volume(one.input, one.series).array, ARRAY)
    np.testing.assert_array_equal(read_volume(other.input, other.series).array, ARRAY + 1)
    with pytest.raises(
        TomosegError, match=r"contains 2 series\. Choose one with --series UID: 1\.2\.[34] .*1\.2\.[34]"
    ):
        read_volume(one.input)


def test_a_series_beside_a_folder_with_another_is_read_alone(tmp_path: Path) -> None:
    write_series(tmp_path, ARRAY, GRID, uid="1.2.3")
    write_series(tmp_path / "sub", ARRAY, GRID, uid="1.2.4")
    assert [(scan.path.name, scan.series) for scan in find_scans(tmp_path)] == [
        (tmp_path.name, "1.2.3"),
        ("sub", "1.2.4"),
    ]


def test_localizers_and_single_images_are_no_scans_of_a_tree(tmp_path: Path) -> None:
    write_series(tmp_path / "scout", ARRAY[:, :, :3], GRID, uid="1.2.5", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(tmp_path / "single", ARRAY[:, :, :1], GRID, uid="1.2.6")
    write_series(tmp_path / "ct", ARRAY, GRID, uid="1.2.7")
    assert [scan.path.name for scan in find_scans(tmp_path)] == ["ct"]
    assert read_volume(tmp_path).series is not None


def test_a_damaged_folder_is_a_scan_that_fails(tmp_path: Path) -> None:
    write_series(tmp_path / "good", ARRAY, GRID)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.dcm").write_text("no image at all")
    assert [scan.path.name for scan in find_scans(tmp_path)] == ["bad", "good"]
    with pytest.raises(TomosegError, match=r"1\.dcm: expected a DICOM file, got something else"):
        read_volume(tmp_path / "bad")


def test_files_without_a_preamble_belong_to_the_series(tmp_path: Path) -> None:
    for path in write_series(tmp_path, ARRAY, GRID)[-2:]:
        content = path.read_bytes()
        dataset = dcmread(path)
        path.write_bytes(content[132 + 12 + int(dataset.file_meta.FileMetaInformationGroupLength) :])
        assert path.read_bytes()[:2] == b"\x08\0"
    np.testing.assert_array_equal(read_volume(tmp_path).array, ARRAY)


def test_one_uid_for_all_images_is_no_copy(tmp_path: Path) -> None:
    paths = write_series(tmp_path, ARRAY, GRID)
    for path in paths:
        change(path, SOPInstanceUID="1.2.3.4")
    shutil.copy(paths[0], tmp_path / "copy")
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert len(volume.notes) == 1
    assert "cop" in volume.notes[0]
    (header,) = read_headers(tmp_path)
    assert header.series is not None
    assert header.series.images == 12


def test_several_frames_in_a_single_frame_image_are_refused(tmp_path: Path) -> None:
    for path in write_series(tmp_path, ARRAY, GRID):
        change(path, NumberOfFrames=3, PixelData=dcmread(path).PixelData * 3)
    with pytest.raises(TomosegError, match="expected a single frame in this kind of image, got 3"):
        read_volume(tmp_path)


def test_rescaling_may_stand_at_the_top_of_a_multi_frame_file(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "e.dcm", ARRAY, GRID, slope=2, intercept=-5)
    dataset = dcmread(path)
    del dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    dataset.RescaleSlope, dataset.RescaleIntercept = 2, -5
    dataset.save_as(path)
    np.testing.assert_array_equal(read_volume(path).array, ARRAY * 2.0 - 5)


@pytest.mark.parametrize("spacing", [0.625, 0.75, 1.25])
def test_positions_of_one_decimal_are_taken(tmp_path: Path, spacing: float) -> None:
    grid = Grid(GRID.shape, np.diag([-0.9, -0.8, spacing, 1.0]))
    for path in write_series(tmp_path, ARRAY, grid):
        change(path, ImagePositionPatient=[round(float(value), 1) for value in dcmread(path).ImagePositionPatient])
    volume = read_volume(tmp_path)
    assert volume.grid.matches(grid, tolerance_mm=0.06)
    assert "off an even spacing" in volume.notes[0]


def test_positions_of_whole_mm_are_no_missing_slices(tmp_path: Path) -> None:
    grid = Grid(GRID.shape, np.diag([-0.9, -0.8, 1.5, 1.0]))
    for path in write_series(tmp_path, ARRAY, grid):
        change(path, ImagePositionPatient=[round(float(value)) for value in dcmread(path).ImagePositionPatient])
    with pytest.raises(TomosegError, match="its slices are 1 to 2 mm apart, the widest gap between"):
        read_volume(tmp_path)


def test_an_oblique_series_with_rounded_positions_gives_a_nifti_that_itk_opens(tmp_path: Path) -> None:
    angle = np.radians(20)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[-1, 0, 0], [0, -np.cos(angle), -np.sin(angle)], [0, -np.sin(angle), np.cos(angle)]]) * (
        0.9,
        0.8,
        1.25,
    )
    for path in write_series(tmp_path / "series", ARRAY, Grid(GRID.shape, affine)):
        change(path, ImagePositionPatient=[round(float(value), 1) for value in dcmread(path).ImagePositionPatient])
    volume = read_volume(tmp_path / "series")
    labels = (volume.array > 0).astype(np.uint8)
    write_label_map(tmp_path / "seg.nii.gz", labels, volume.grid, None)
    np.testing.assert_array_equal(nib.load(tmp_path / "seg.nii.gz").affine, volume.grid.affine.astype(np.float32))
    by_itk = read_volume(sitk.ReadImage(str(tmp_path / "seg.nii.gz")))
    np.testing.assert_array_equal(by_itk.array, labels)
    assert by_itk.grid.distance_mm(volume.grid) < 0.05

    sheared = volume.grid.affine.copy()
    sheared[:3, 2] += (0, 0.3, 0)
    write_label_map(tmp_path / "tilted.nii.gz", labels, Grid(GRID.shape, sheared), None)
    header = nib.load(tmp_path / "tilted.nii.gz").header
    assert (header["sform_code"], header["qform_code"]) == (1, 0)


def test_missing_elements_that_have_a_default(tmp_path: Path) -> None:
    for path in write_series(tmp_path, ARRAY, GRID):
        change(path, HighBit=None, SOPInstanceUID=None)
    np.testing.assert_array_equal(read_volume(tmp_path).array, ARRAY)


def test_what_is_given_wrongly_is_reported_at_once(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "ct", ARRAY, GRID)
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "t1.nii").touch()
    for inputs, output, series, message in [
        (paths, "out", None, "ct: 12 files of one DICOM series. Give the folder"),
        ([tmp_path / "DICOMDIR"], "out", None, "DICOMDIR: the index of a medium. Give the folder that it lies in"),
        ([tmp_path / "t1.nii"], "out", "1.2.3", r"t1\.nii: no DICOM, so it has no series 1\.2\.3"),
        (
            [tmp_path / "t1.nii"],
            "seg.mha",
            None,
            r"seg\.mha: labels cannot be written as that\. Use \.nii\.gz or \.nii",
        ),
    ]:
        with pytest.raises(TomosegError, match=message):
            plan_cases(inputs, tmp_path / output, series=series)


def test_images_without_a_series_are_a_scan_that_fails(tmp_path: Path) -> None:
    for path in write_series(tmp_path / "bad", ARRAY, GRID):
        change(path, SeriesInstanceUID=None)
    write_series(tmp_path / "good", ARRAY, GRID)
    assert [scan.path.name for scan in find_scans(tmp_path)] == ["bad", "good"]

"""DICOM series: chosen, ordered and placed as ITK's own readers do it; one line says why a series is no volume."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.fileset import FileSet
from pydicom.uid import JPEG2000Lossless, MediaStorageDirectoryStorage, SecondaryCaptureImageStorage

from support.dicoms import NATIVE, make_series, oriented_grid, write_enhanced, write_series
from support.strategies import grids
from tomoseg import Grid, TomosegError, read_volume
from tomoseg.data.header import read_headers
from tomoseg.data.volume import LPS_TO_RAS

SHAPE = (34, 33, 6)
DTYPES = {"int16": (-2000, 3000), "uint16": (0, 65535)}


def noise(shape: tuple[int, ...] = SHAPE, dtype: str = "int16") -> Any:
    return np.random.default_rng(0).integers(*DTYPES[dtype], shape).astype(dtype)


def edit(path: Path, change: Callable[[Dataset], object]) -> None:
    dataset = dcmread(path)
    change(dataset)
    dataset.save_as(path)


def failure(path: Path, series: str | None = None) -> str:
    with pytest.raises(TomosegError) as caught:
        read_volume(path, series)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def by_simpleitk(folder: Path) -> tuple[Any, Any]:
    """Return values and affine (RAS) as SimpleITK's reader of series has them."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    reader.SetOutputPixelType(sitk.sitkFloat64)
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), LPS_TO_RAS @ affine


def by_monai(folder: Path) -> tuple[Any, Any]:
    """Return values and affine (RAS) as MONAI's reader has them, which is that of the itk package."""
    from monai.data import ITKReader

    reader = ITKReader(affine_lps_to_ras=True)
    array, reported = reader.get_data(reader.read(str(folder)))
    return array, np.asarray(reported["affine"])


@pytest.mark.parametrize("reader", [by_simpleitk, by_monai])
@settings(max_examples=15, deadline=None)  # MONAI takes seconds to import
@given(
    grids(),
    st.sampled_from(["int16", "uint16"]),
    st.one_of(st.sampled_from([1, 2, -1]), st.floats(-3, 3).filter(lambda slope: abs(slope) > 0.01)),
    st.one_of(st.just(0), st.integers(-1024, 1024), st.floats(-1024, 1024)),
    st.sampled_from(["CT", "MR"]),
    st.sampled_from(NATIVE[:3]),
)
def test_a_series_is_what_itk_reads(
    tmp_path_factory: pytest.TempPathFactory,
    reader: Callable[[Path], tuple[Any, Any]],
    grid: Grid,
    dtype: str,
    slope: float,
    intercept: float,
    modality: str,
    syntax: str,
) -> None:
    folder = tmp_path_factory.mktemp("series")
    grid = Grid((*grid.shape[:2], min(grid.shape[2], 6)), grid.affine)
    array = noise(grid.shape, dtype)
    write_series(folder, array, grid, modality=modality, slope=slope, intercept=intercept, syntax=syntax)
    volume = read_volume(folder)
    values, affine = reader(folder)
    assert volume.grid.matches(Grid(values.shape, affine), tolerance_mm=1e-4)
    np.testing.assert_array_equal(volume.array, values.astype("float32"))
    assert volume.notes == ()


@pytest.mark.parametrize("kind", ["axial", "coronal", "sagittal", "descending", "oblique"])
@pytest.mark.parametrize("storage", ["classic", "enhanced", "two files"])
def test_the_frames_are_those_of_the_third_axis(tmp_path: Path, kind: str, storage: str) -> None:
    series, grid = make_series(tmp_path, SHAPE, kind, storage)
    volume = read_volume(tmp_path)
    array = np.random.default_rng(7).integers(0, 1000, SHAPE).astype(np.int16)
    frames = series.frames
    if np.linalg.det(grid.affine[:3, :3]) < 0:  # the third axis follows row × column
        array, frames = array[:, :, ::-1], frames[::-1]
    assert volume.series is not None
    assert (volume.series.uid, volume.series.modality) == (series.uid, "CT")
    assert volume.series.frames == frames
    np.testing.assert_array_equal(volume.array, array)


def test_order_comes_from_positions_alone(tmp_path: Path) -> None:
    grid = oriented_grid(SHAPE, "axial")
    volumes = []
    for names in ([f"{k}.dcm" for k in range(6)], [f"{5 - k}.dcm" for k in range(6)], list("caebfd")):
        folder = tmp_path / "".join(names).replace(".dcm", "")
        write_series(folder, noise(), grid, names=names, InstanceNumber=7)
        volumes.append(read_volume(folder))
    for volume in volumes:
        assert volume.grid == volumes[0].grid
        np.testing.assert_array_equal(volume.array, noise())


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("syntax", [*NATIVE[:2], JPEG2000Lossless])
def test_an_enhanced_file_is_the_same_volume(tmp_path: Path, modality: str, shared: bool, syntax: str) -> None:
    grid = oriented_grid(SHAPE, "oblique")
    reported: Any = {"modality": modality, "slope": 0.5, "intercept": -7}
    write_series(tmp_path / "classic", noise(), grid, **reported)
    write_enhanced(tmp_path / "all.dcm", noise(), grid, **reported, syntax=syntax, shared_orientation=shared)
    one, other = read_volume(tmp_path / "classic"), read_volume(tmp_path / "all.dcm")
    np.testing.assert_array_equal(one.array, other.array)
    assert one.grid.matches(other.grid, tolerance_mm=1e-6)


def test_frames_of_an_enhanced_file_have_slopes_of_their_own(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "all.dcm", noise(), oriented_grid(SHAPE, "axial"), shared_orientation=False)
    wanted = np.empty(SHAPE)

    def change(dataset: Dataset) -> None:
        for group in dataset.PerFrameFunctionalGroupsSequence:
            k = group.FrameContentSequence[0].InStackPositionNumber - 1
            values = Dataset()
            values.RescaleSlope, values.RescaleIntercept = 1.5 + k, -k
            group.PixelValueTransformationSequence = [values]
            wanted[:, :, k] = noise()[:, :, k] * (1.5 + k) - k

    edit(path, change)
    np.testing.assert_array_equal(read_volume(path).array, wanted.astype("float32"))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A CT series with all that a medium may hold besides it."""
    folder = tmp_path / "study"
    grid = oriented_grid(SHAPE, "axial")
    paths = write_series(folder / "a" / "b", noise(), grid, uid="1.2.3", names=[f"x{k}" for k in range(6)])
    shutil.copy(paths[2], folder / "copy")
    shutil.copy(paths[2], folder / "a" / ".hidden.dcm")
    (folder / ".cache").mkdir()
    shutil.copy(paths[3], folder / ".cache" / "x3.dcm")
    (folder / "note.txt").write_text("not DICOM")
    (folder / "autorun.inf").write_bytes(b"")
    scout = write_series(folder / "scout", noise((34, 33, 1)), Grid((34, 33, 1), np.eye(4)), uid="1.2.4")
    edit(scout[0], lambda dataset: setattr(dataset, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    for name in ("test-SR.dcm", "liver_1frame.dcm", "rtstruct.dcm", "rtplan.dcm", "waveform_ecg.dcm", "SC_rgb_rle.dcm"):
        source = get_testdata_file(name, download=False)
        assert isinstance(source, str)
        shutil.copy(source, folder / name)
    secondary = write_series(folder / "secondary", noise(), grid, uid="1.2.5")
    for path in secondary:
        edit(path, make_secondary)
    return folder


def make_secondary(dataset: Dataset) -> None:
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient


def test_everything_else_in_the_folder_is_passed_over(study: Path) -> None:
    volume = read_volume(study)
    np.testing.assert_array_equal(volume.array, noise())
    assert volume.series is not None
    assert volume.series.uid == "1.2.3"
    assert volume.notes == ("left out as copies of other files: 1",)
    assert [str(one.series) for one in read_headers(study)] == ["1.2.3 (CT, 6 images, phantom)"]


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("told_apart_by", ["AcquisitionNumber", "the values alone"])
def test_phases_that_share_the_uids_of_their_images_are_not_copies(
    tmp_path: Path, enhanced: bool, told_apart_by: str
) -> None:
    grid = oriented_grid(SHAPE, "axial")
    for phase in (1, 2):
        if enhanced:
            paths = [write_enhanced(tmp_path / f"{phase}.dcm", noise() + phase, grid, uid="1.2.3")]
        else:
            names = [f"{phase}{k}" for k in range(6)]
            paths = write_series(tmp_path, noise() + phase, grid, uid="1.2.3", names=names)
        for k, path in enumerate(paths):
            edit(path, put("SOPInstanceUID", f"1.2.3.{k}"))
            edit(path, put("InstanceNumber", k + 1))
            if told_apart_by == "AcquisitionNumber":
                edit(path, put("AcquisitionNumber", phase))
    reported = "AcquisitionNumber 1 and 2" if told_apart_by == "AcquisitionNumber" else "their headers do not"
    assert re.search(
        f"expected one image at each place, got 6 or more at the same places; .*{reported}", failure(tmp_path)
    )


def test_a_copy_in_another_transfer_syntax_is_a_copy(tmp_path: Path) -> None:
    paths = write_series(tmp_path, noise(), oriented_grid(SHAPE, "axial"))
    for path in paths:
        dataset = dcmread(path)
        dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
        dataset.save_as(path.with_name(f"{path.name}.copy"))
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.array, noise())
    assert volume.notes == ("left out as copies of other files: 6",)
    assert [one.series.images for one in read_headers(tmp_path) if one.series] == [6]


def test_a_medium_with_an_index_is_read(tmp_path: Path) -> None:
    write_series(tmp_path / "plain", noise(), oriented_grid(SHAPE, "axial"))
    medium = FileSet()
    for path in (tmp_path / "plain").iterdir():
        medium.add(path)
    medium.write(tmp_path / "medium")
    assert (tmp_path / "medium" / "DICOMDIR").is_file()
    np.testing.assert_array_equal(read_volume(tmp_path / "medium").array, noise())
    # under another name
    assert dcmread(tmp_path / "medium" / "DICOMDIR").file_meta.MediaStorageSOPClassUID == MediaStorageDirectoryStorage
    (tmp_path / "medium" / "DICOMDIR").rename(tmp_path / "medium" / "index.dcm")
    np.testing.assert_array_equal(read_volume(tmp_path / "medium").array, noise())


def test_one_of_several_series_is_chosen_by_its_uid(tmp_path: Path) -> None:
    grid = oriented_grid(SHAPE, "axial")
    for number in (1, 2):
        write_series(tmp_path, noise() + number, grid, uid=f"1.2.{number}", names=[f"{number}{k}" for k in range(6)])
    assert failure(tmp_path) == (
        f"{tmp_path}: contains 2 series. Choose one with --series UID: "
        "1.2.1 (CT, 6 images, phantom); 1.2.2 (CT, 6 images, phantom)"
    )
    for number in (1, 2):
        np.testing.assert_array_equal(read_volume(tmp_path, f"1.2.{number}").array, noise() + number)
    assert failure(tmp_path, "1.2.7").startswith(f"{tmp_path}: contains no series 1.2.7, but 1.2.1 (CT, 6 images")


def test_many_series_are_not_all_listed(tmp_path: Path) -> None:
    for number in range(12):
        grid = Grid((8, 8, 2), np.eye(4))
        write_series(tmp_path / str(number), noise(grid.shape), grid, uid=f"1.2.{number}", SeriesDescription="T1\nhead")
    message = failure(tmp_path)
    assert "contains 12 series" in message
    assert message.count("T1 head") == 8
    assert message.endswith(" and 4 more")


def test_localizers_in_the_series_itself_are_left_out(tmp_path: Path) -> None:
    write_series(tmp_path, noise(), oriented_grid(SHAPE, "axial"), uid="1.2.3")
    kind = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    sagittal = oriented_grid((34, 33, 1), "sagittal")
    write_series(tmp_path / "scout", noise((34, 33, 1)), sagittal, uid="1.2.3", ImageType=kind)
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.array, noise())
    assert volume.notes == ("left out as localizers: 1",)


def drop(keyword: str) -> Callable[[Dataset], None]:
    return lambda dataset: delattr(dataset, keyword)


def put(keyword: str, value: Any) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset, keyword, value)


def put_bytes(keyword: str, value: bytes) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        dataset[keyword]._value = value.decode("latin-1")

    return change


HEADERS = {
    "ImagePositionPatient: expected 3 numbers, got nothing": drop("ImagePositionPatient"),
    "ImagePositionPatient: expected 3 numbers, got [1.0, 2.0]": put("ImagePositionPatient", [1, 2]),
    "ImageOrientationPatient: expected 6 numbers, got nothing": drop("ImageOrientationPatient"),
    "ImageOrientationPatient: expected two unit vectors at right angles": put(
        "ImageOrientationPatient", [1, 0, 0, 0.3, 1, 0]
    ),
    "ImageOrientationPatient: expected two unit": put("ImageOrientationPatient", [0, 0, 0, 0, 1, 0]),
    "PixelSpacing: expected 2 numbers, got nothing": drop("PixelSpacing"),
    "PixelSpacing: expected two lengths in mm": put("PixelSpacing", [0.5, 0]),
    "RescaleSlope: expected a number above or below 0, got 0": put("RescaleSlope", 0),
    "a mosaic, which shows many slices in one image": put("ImageType", ["ORIGINAL", "PRIMARY", "MOSAIC"]),
    "expected one value a pixel, got 3; it is a colour image": put("SamplesPerPixel", 3),
    "its values go through a lookup table": put("ModalityLUTSequence", [Dataset()]),
    "a truncated or damaged DICOM file: its header ends too early": drop("Rows"),
    "a damaged DICOM file: it has no SeriesInstanceUID": drop("SeriesInstanceUID"),
    "a damaged DICOM header: could not convert string to float: 'far'": put_bytes("ImagePositionPatient", b"far\\0\\0"),
    "its pixels cannot be read: BitsStored 16 and HighBit 11 do not fit together": put("HighBit", 11),
    "its pixels cannot be read": drop("PixelData"),
    "its pixels cannot be read:": put("PixelData", bytes(100)),
}  # fmt: skip


@pytest.mark.parametrize("reported", HEADERS)
def test_what_is_wrong_with_a_slice_is_reported_with_its_name(tmp_path: Path, reported: str) -> None:
    path = write_series(tmp_path, noise(), oriented_grid(SHAPE, "axial"))[3]
    edit(path, HEADERS[reported])
    assert failure(tmp_path).startswith(f"{path}: {reported}")


@pytest.mark.parametrize(
    ("reported", "change"),
    [
        ("expected 6 frames to be described, got 5", lambda one: one.PerFrameFunctionalGroupsSequence.pop()),
        ("ImageOrientationPatient: expected 6 numbers", drop("SharedFunctionalGroupsSequence")),
        ("expected 7 frames to be described, got 6", put("NumberOfFrames", 7)),
        ("its pixels cannot be read: ", lambda one: setattr(one, "PixelData", one.PixelData[:-34])),
    ],
)
def test_what_is_wrong_with_an_enhanced_file(
    tmp_path: Path, reported: str, change: Callable[[Dataset], object]
) -> None:
    path = write_enhanced(tmp_path / "all.dcm", noise(), oriented_grid(SHAPE, "axial"))
    edit(path, change)
    assert failure(path).startswith(f"{path}: {reported}")


def test_what_is_no_series(tmp_path: Path, study: Path) -> None:
    paths = write_series(tmp_path / "series", noise(), oriented_grid(SHAPE, "axial"))
    assert failure(paths[0]) == f"{paths[0]}: a single slice of a DICOM series. Give the folder that holds all of it"
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(paths[0], alone)
    assert failure(alone) == f"{alone}: expected a series of at least two slices, got a single image"
    (tmp_path / "empty").mkdir()
    assert failure(tmp_path / "empty") == f"{tmp_path / 'empty'}: expected a CT or MR series, got no DICOM file"
    shutil.rmtree(study / "a")
    for path in (study / "copy", *(study / "scout").iterdir()):
        path.unlink()
    assert re.fullmatch(
        f"{study}: expected a CT or MR series, got ECG, .*RTSTRUCT, SEG, SR, Secondary Capture .*CT.", failure(study)
    )
    other = tmp_path / "photo.dcm"
    other.write_bytes(bytes(range(256)) * 40)
    assert failure(other).startswith(f"{other}: ")


@pytest.mark.parametrize("syntax", NATIVE[:2])
def test_bare_elements_without_a_header_of_the_file_are_read(tmp_path: Path, syntax: str) -> None:
    for path in write_series(tmp_path, noise(), oriented_grid(SHAPE, "axial"), syntax=syntax):
        content = path.read_bytes()
        start = 144 + int.from_bytes(
            content[140:144], "little"
        )  # after the preamble and what FileMetaInformation holds
        path.with_suffix(".dcm").write_bytes(content[start:])
        path.unlink()
    np.testing.assert_array_equal(read_volume(tmp_path).array, noise())


def test_the_real_head_is_what_itk_reads(head_folder: Path) -> None:
    volume = read_volume(head_folder)
    for reader in (by_simpleitk, by_monai):
        values, affine = reader(head_folder)
        np.testing.assert_array_equal(volume.array, values.astype("float32"))
        assert volume.grid.matches(Grid(values.shape, affine), tolerance_mm=1e-3)
    assert volume.array.shape == (256, 256, 192)

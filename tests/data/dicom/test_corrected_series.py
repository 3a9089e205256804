"""Series that break the standard in a way that leaves no doubt are read; odd images and gaps are named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from support.dicoms import write_enhanced, write_series
from tomoseg import Grid, ReadOptions, TomosegError, Volume, read_volume, read_with
from tomoseg.core.notes import collect_notes
from tomoseg.data.dicom.seg_reader import read_segmentation
from tomoseg.data.discovery import find_scans
from tomoseg.data.header import read_headers
from tomoseg.data.labels import unnamed
from tomoseg.data.output_types import OUTPUT_TYPES
from tomoseg.data.segments import LabelMap

SHAPE = (6, 5, 8)
GRID = Grid(SHAPE, np.array([[-0.75, 0, 0, 60.5], [0, -0.875, 0, 70.25], [0, 0, 1.25, -500], [0, 0, 0, 1]]))
ARRAY = np.random.default_rng(0).integers(-900, 900, SHAPE).astype(np.int16)
Change = Callable[[Dataset], object]


def edit(path: Path, change: Change) -> None:
    dataset = dcmread(path)
    change(dataset)
    dataset.save_as(path)


def put(**elements: Any) -> Change:
    def change(dataset: Dataset) -> None:
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)

    return change


def both(*changes: Change) -> Change:
    def change(dataset: Dataset) -> None:
        for one in changes:
            one(dataset)

    return change


def drop(*keywords: str) -> Change:
    def change(dataset: Dataset) -> None:
        for keyword in keywords:
            del dataset[keyword]

    return change


def declare(keyword: str, kind: str) -> Change:
    """Write a number as another type than the standard's."""

    def change(dataset: Dataset) -> None:
        value, tag = dataset[keyword].value, Tag(keyword)
        several = [value] if isinstance(value, str | int | float) else list(value)
        if kind in ("FD", "FL"):
            data = np.array(several, "<f8" if kind == "FD" else "<f4").tobytes()
        else:
            data = "\\".join(map(str, several)).encode()
        dataset[tag] = RawDataElement(tag, kind, len(data), data + b" " * (len(data) % 2), 0, False, True)

    return change


def with_commas(dataset: Dataset) -> None:
    for keyword in ("ImagePositionPatient", "PixelSpacing", "RescaleIntercept", "SliceThickness"):
        tag = Tag(keyword)
        value = dataset[keyword].value
        data = "\\".join(map(str, value if keyword in ("ImagePositionPatient", "PixelSpacing") else [value]))
        content = data.replace(".", ",").encode()
        explicit = not dataset.is_implicit_VR
        dataset[tag] = RawDataElement(
            tag, "DS", len(content), content + b" " * (len(content) % 2), 0, not explicit, True
        )


def with_nul(text: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        edit(path, put(SpecificCharacterSet="X" * len(text), PatientName="Müller^Änne"))
        content = path.read_bytes()
        assert content.count(b"X" * len(text)) == 1
        path.write_bytes(content.replace(b"X" * len(text), text))

    return change


def capture(dataset: Dataset) -> None:
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage


def cut(start: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_bytes(path.read_bytes()[start:])

    return change


CORRECTED: dict[str, Change] = {
    "decimal commas": with_commas,
    "PixelSpacing as LO": declare("PixelSpacing", "LO"),
    "PixelSpacing as UN": declare("PixelSpacing", "UN"),
    "PixelSpacing as FD": declare("PixelSpacing", "FD"),
    "ImagePositionPatient as SH": declare("ImagePositionPatient", "SH"),
    "ImagePositionPatient as OB": declare("ImagePositionPatient", "OB"),
    "ImagePositionPatient as IS": declare("ImagePositionPatient", "IS"),
    "ImageOrientationPatient as ST": declare("ImageOrientationPatient", "ST"),
    "RescaleIntercept as LO": declare("RescaleIntercept", "LO"),
    "Rows as IS": declare("Rows", "IS"),
    "Columns as LO": declare("Columns", "LO"),
    "BitsStored as SH": declare("BitsStored", "SH"),
    "captures with their places": capture,
}
FILES: dict[str, Callable[[Path], None]] = {
    "NUL in a character set": with_nul(b"ISO_IR\0100"),
    "NUL before a second character set": with_nul(b"ISO_IR 100\0\\ISO 2022 IR 13"),
    "no preamble": cut(128),
    "neither preamble nor its mark": cut(132),
}


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize("case", [*CORRECTED, *FILES])
def test_what_leaves_no_doubt_is_read(case: str, syntax: str, tmp_path: Path) -> None:
    if " as " in case and syntax == ImplicitVRLittleEndian:
        pytest.skip("it does not say the types")
    for path in write_series(tmp_path / "in", ARRAY, GRID, intercept=-1024.5, syntax=syntax):
        if case in FILES:
            FILES[case](path)
        else:
            edit(path, CORRECTED[case])
    (scan,) = find_scans(tmp_path)
    volume = read_volume(scan.path, scan.series)
    np.testing.assert_array_equal(volume.array, ARRAY - 1024.5)
    assert volume.grid.matches(GRID, 1e-5)
    assert volume.series is not None
    assert volume.series.modality == "CT"
    assert any("decimal comma" in note for note in volume.notes) == (case == "decimal commas")


def test_decimal_commas_within_a_multi_frame_image(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "e.dcm", ARRAY, GRID, syntax=ExplicitVRLittleEndian)
    content = path.read_bytes()
    assert b"0.75" in content
    path.write_bytes(content.replace(b"0.75", b"0,75"))
    assert read_volume(path).grid.spacing[0] == 0.75


def test_a_capture_without_a_place_is_no_scan(tmp_path: Path) -> None:
    for path in write_series(tmp_path, ARRAY, GRID):
        edit(path, capture)
        edit(path, drop("ImagePositionPatient", "ImageOrientationPatient"))
    with pytest.raises(TomosegError, match="expected a CT or MR series, got Secondary Capture Image Storage"):
        read_volume(tmp_path)


def odd_one(folder: Path, change: Change, k: int = 7) -> str:
    """Change the slice at an end of a series; return the name of its file."""
    path = write_series(folder, ARRAY, GRID)[k]
    edit(path, change)
    return path.name


def smaller(dataset: Dataset) -> None:
    dataset.Rows = 3
    dataset.PixelData = dataset.PixelData[:36]


ODD: dict[str, tuple[Change, str]] = {
    "a coronal": (put(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), "images of several directions"),
    "another size": (smaller, "images of 5×6 and of 3×6 pixels"),
    "other pixels": (put(PixelSpacing=[0.5, 0.5]), "pixels of 0.875×0.75 mm and of 0.5×0.5 mm"),
    "a screen save": (drop("ImagePositionPatient", "ImageOrientationPatient"), "has no place: it is a capture"),
    "a capture": (
        both(capture, drop("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")),
        "has no place: it is a capture of the screen",
    ),
    "a colour image": (put(SamplesPerPixel=3), "expected one value a pixel, got 3; it is a colour image"),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("case", ODD)
def test_an_odd_image_is_named_and_left_out(case: str, first: bool, tmp_path: Path) -> None:
    change, told = ODD[case]
    name = odd_one(tmp_path, change, 0 if first else 7)
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.array, ARRAY[:, :, 1:] if first else ARRAY[:, :, :7])
    (warning,) = volume.warnings
    assert warning.startswith(f"left out of the series: {tmp_path / name}: ")
    assert told in warning
    (header,) = read_headers(tmp_path)
    assert header.grid == volume.grid
    assert warning in header.notes


@pytest.mark.parametrize(
    ("kept", "odd", "taken"), [(3, 1, True), (2, 1, False), (3, 2, False), (8, 2, False), (20, 2, True)]
)
def test_only_few_are_odd_beside_many(kept: int, odd: int, taken: bool, tmp_path: Path) -> None:
    grid = Grid((*SHAPE[:2], kept + odd), GRID.affine)
    array = np.resize(ARRAY, grid.shape)
    for path in write_series(tmp_path, array, grid)[kept:]:
        edit(path, put(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]))
    if taken:
        assert read_volume(tmp_path).array.shape[2] == kept
        return
    with pytest.raises(TomosegError, match="expected slices of one series to be alike, got images of several"):
        read_volume(tmp_path)


def test_a_slice_that_the_others_miss_is_an_error(tmp_path: Path) -> None:
    name = odd_one(tmp_path, put(PixelSpacing=[0.5, 0.5]), 3)
    with pytest.raises(TomosegError, match=rf"got pixels of .* \({name}\)"):
        read_volume(tmp_path)
    with read_with(ReadOptions(fill_gaps=True)):
        assert [warning[:12] for warning in read_volume(tmp_path).warnings] == ["left out of ", "1 slice is m"]


def gap(folder: Path, *gone: int) -> None:
    paths = write_series(folder, ARRAY, GRID)
    for k in gone:
        paths[k].unlink()


def filled(folder: Path) -> Volume:
    with pytest.raises(TomosegError, match="pass --fill-gaps"):
        read_volume(folder)
    with read_with(ReadOptions(fill_gaps=True)):
        volume = read_volume(folder)
        (header,) = read_headers(folder)
        assert header.grid == volume.grid
        np.testing.assert_array_equal(header.read_voxels()[0], volume.array)
    assert set(volume.warnings) <= set(header.notes)
    return volume


@pytest.mark.parametrize(
    ("gone", "told"),
    [((3,), "1 slice is missing, between -497.5 and -495.0 mm"), ((2, 3), "2 slices are missing, between -498.8")],
)
def test_missing_slices_are_interpolated(gone: Sequence[int], told: str, tmp_path: Path) -> None:
    gap(tmp_path, *gone)
    volume = filled(tmp_path)
    assert told in volume.warnings[0]
    assert volume.grid.matches(GRID, 1e-5)
    left, right = gone[0] - 1, gone[-1] + 1
    for k in range(8):
        share = (k - left) / (right - left)
        wanted = ARRAY[:, :, left] * (1 - share) + ARRAY[:, :, right] * share if k in gone else ARRAY[:, :, k]
        np.testing.assert_allclose(volume.array[:, :, k], wanted, atol=1e-3)
    assert volume.series is not None
    assert volume.series.indices == tuple(k for k in range(8) if k not in gone)


def test_an_uneven_spacing_is_resampled(tmp_path: Path) -> None:
    heights = [0, 1.0, 2.0, 3.0, 4.5, 6.0, 7.0, 8.0]
    for path, height in zip(write_series(tmp_path, ARRAY, GRID), heights, strict=True):
        edit(path, put(ImagePositionPatient=[0, 0, height]))
    volume = filled(tmp_path)
    assert "its slices are 1 to 1.5 mm apart, the widest gap between 3.0 and 4.5 mm" in volume.warnings[0]
    assert volume.grid.spacing[2] == pytest.approx(8 / (len(volume.array[0, 0]) - 1))
    places = np.arange(volume.array.shape[2]) * volume.grid.spacing[2]
    np.testing.assert_allclose(volume.array[2, 3], np.interp(places, heights, ARRAY[2, 3]), atol=1e-2)


def test_a_gap_larger_than_the_series_is_an_error_in_any_case(tmp_path: Path) -> None:
    edit(write_series(tmp_path, ARRAY, GRID)[7], put(ImagePositionPatient=[-60.5, -70.25, 900000]))
    with read_with(ReadOptions(fill_gaps=True)), pytest.raises(TomosegError, match="Resample it first"):
        read_volume(tmp_path)


@pytest.mark.parametrize("kind", ["dicom-seg", "dicom-labelmap", "rtstruct"])
def test_dicom_results_refer_to_images_that_exist(kind: str, tmp_path: Path) -> None:
    gap(tmp_path / "in", 3)
    volume = filled(tmp_path / "in")
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 1:4, 2:6] = 1
    found = LabelMap(labels, volume.grid, (unnamed(1),), "test", "1", series=volume.series)
    OUTPUT_TYPES[kind].write(tmp_path / "x.dcm", found)
    there = {str(dcmread(path).SOPInstanceUID) for path in (tmp_path / "in").iterdir()}
    text = str(dcmread(tmp_path / "x.dcm"))
    referred = {line.split()[-1] for line in text.splitlines() if "Referenced SOP Instance UID" in line}
    study = str(dcmread(next((tmp_path / "in").iterdir())).StudyInstanceUID)  # which a structure set refers to, too
    assert referred - {study} == there
    if kind == "dicom-seg":
        np.testing.assert_array_equal(read_segmentation(tmp_path / "x.dcm", volume.grid, {}), labels)


@pytest.mark.parametrize(
    "keywords", [["SeriesInstanceUID"], ["FrameOfReferenceUID"], ["SeriesInstanceUID", "FrameOfReferenceUID"]]
)
def test_a_uid_for_each_slice_is_said_in_those_words(keywords: list[str], tmp_path: Path) -> None:
    for path in write_series(tmp_path / "a", ARRAY, GRID):
        edit(path, put(**{keyword: generate_uid() for keyword in keywords}))
    write_series(tmp_path / "b", ARRAY, GRID)  # another patient: the images are not skipped beside it
    one, other = find_scans(tmp_path)
    assert (one.path, other.path) == (tmp_path / "a", tmp_path / "b")
    words = f"each of its 8 images has a {keywords[0]} of its own. Pass --one-series to take them together"
    with pytest.raises(TomosegError) as caught:
        read_volume(one.path, one.series)
    assert str(caught.value) == f"{tmp_path / 'a'}: {words}"
    assert [header.reason.partition(": ")[2] for header in read_headers(tmp_path / "a")] == [words]
    with read_with(ReadOptions(one_series=True)):
        np.testing.assert_array_equal(read_volume(one.path, one.series).array, ARRAY)
        np.testing.assert_array_equal(read_volume(one.path).array, ARRAY)


def test_letters_that_their_character_set_does_not_allow_are_noted(tmp_path: Path) -> None:
    for path in write_series(tmp_path / "in", ARRAY, GRID):
        edit(path, put(SpecificCharacterSet="ISO_IR 192", PatientName="Doe^XXXX"))
        path.write_bytes(path.read_bytes().replace(b"XXXX", b"J\xff\xfen"))
    volume = read_volume(tmp_path / "in")
    found = LabelMap(np.ones(SHAPE, np.uint8), volume.grid, (unnamed(1),), "test", "1", series=volume.series)
    with collect_notes() as notes:
        OUTPUT_TYPES["rtstruct"].write(tmp_path / "x.dcm", found)
    assert notes == ["letters of the patient's data are replaced that their character set does not allow"]
    assert "\ufffd" in str(dcmread(tmp_path / "x.dcm").PatientName)

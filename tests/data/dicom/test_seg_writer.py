from __future__ import annotations

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from highdicom.color import CIELabColor
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from support.bundles import SHARED
from support.dicom_results import LABEL_MAP, label_map, read_by_hand, read_labels, run_dciodvfy
from support.dicoms import DIRECTIONS, make_series
from support.disk import full_disk
from support.slices import read_slices
from tomoseg import TomosegError, read_volume
from tomoseg.data.dicom.seg_writer import write_dicom_seg
from tomoseg.data.labels import Code, Label, default_colour
from tomoseg.data.volume import DicomSeries

SHAPE = (13, 11, 6)
ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
TABLE = (
    Label(1, "liver", (221, 130, 101), ANATOMY, Code("10200004", "SCT", "Liver")),
    Label(
        2, "linke Niere ä 腎", (0, 255, 7), ANATOMY, Code("64033007", "SCT", "Kidney"), Code("7771000", "SCT", "Left")
    ),
    Label(3, "n" * 80 + "\\", (1, 2, 3)),
)
STORAGES = ("classic", "enhanced", "two files")
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


def random_labels(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> NDArray[np.uint8]:
    """Two labels; none in the first slice, nor in a slice between others."""
    labels = np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)
    labels[:, :, [0, 3]] = 0
    return labels


def write(path: Path, labels: NDArray[Any], series: DicomSeries, labelmap: bool = False, table: Any = TABLE) -> Dataset:
    write_dicom_seg(path, label_map(labels, series, table, "hippocampus", "1.2.0"), labelmap)
    return dcmread(path)


@pytest.mark.parametrize("labelmap", [False, True])
def test_a_segment_says_how_good_it_is_expected_to_be(labelmap: bool, tmp_path: Path) -> None:
    series, _ = make_series(tmp_path / "dicom", SHAPE)
    found = replace(label_map(random_labels(), series, TABLE, "x", "1"), expected_dice={1: "0.91, at least 0.84"})
    path = tmp_path / "seg.dcm"
    write_dicom_seg(path, found, labelmap)
    texts = [one.get("SegmentDescription") for one in dcmread(path).SegmentSequence]
    assert texts[-3:] == ["Expected Dice 0.91, at least 0.84", None, None]
    # it does not know the new label maps
    assert labelmap or not [line for line in run_dciodvfy(path) if line.startswith("Error")]


def read_by_dcmqi(path: Path, folder: Path, series: DicomSeries) -> tuple[list[NDArray[np.int64]], list[Any]]:
    """Return the voxels that dcmqi reads from a file on the grid of the series, and its table of segments."""
    folder.mkdir()
    tool = Path(sys.executable).with_name("segimage2itkimage")
    command = [str(tool), "--inputDICOM", str(path), "--outputDirectory", str(folder), "-t", "nrrd", "--mergeSegments"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    known = read_slices(series)
    affine = np.eye(4)
    affine[:3, :2] = known[0].steps.T
    affine[:3, 2] = (known[-1].position - known[0].position) / (len(known) - 1)
    affine[:3, 3] = known[0].position
    arrays, segments = [], []
    for file in sorted(folder.glob("*.nrrd")):
        image = sitk.ReadImage(str(file))
        values = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
        indices = np.argwhere(values)
        matrix = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
        places = indices @ matrix.T + image.GetOrigin()
        own = np.linalg.solve(affine, np.c_[places, np.ones(len(places))].T)[:3].T
        np.testing.assert_allclose(own, np.rint(own), atol=1e-3)
        array = np.zeros((*known[0].size, len(known)), np.int64)
        array[tuple(np.rint(own).astype(int).T)] = values[tuple(indices.T)]
        arrays.append(array)
    for file in sorted(folder.glob("*.json")):
        segments += [one for group in json.loads(file.read_text())["segmentAttributes"] for one in group]
    return arrays, sorted(segments, key=lambda one: one["labelID"])


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("kind", [kind for kind in DIRECTIONS if kind != "tilted"])  # which dcmqi does not read
def test_dcmqi_reads_the_same_voxels_at_the_same_place(tmp_path: Path, kind: str, storage: str) -> None:
    series, _ = make_series(tmp_path / "scan", SHAPE, kind, storage)
    labels = random_labels()
    for labelmap in (False, True):
        write(tmp_path / f"{labelmap}.dcm", labels, series, labelmap)
        (found,), _ = read_by_dcmqi(tmp_path / f"{labelmap}.dcm", tmp_path / str(labelmap), series)
        np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize("labelmap", [False, True])
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("kind", DIRECTIONS)
def test_the_same_voxels_at_the_same_place(tmp_path: Path, kind: str, storage: str, labelmap: bool) -> None:
    series, _ = make_series(tmp_path / "scan", SHAPE, kind, storage)
    labels = random_labels()
    np.testing.assert_array_equal(read_labels(write(tmp_path / "a.dcm", labels, series, labelmap), series), labels)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> DicomSeries:
    return make_series(tmp_path_factory.mktemp("tilted") / "scan", SHAPE, "tilted")[0]


@pytest.mark.parametrize("labelmap", [False, True])
def test_a_mirror_or_a_shift_by_one_voxel_would_be_seen(tmp_path: Path, labelmap: bool) -> None:
    series, _ = make_series(tmp_path / "scan", SHAPE, "oblique")
    labels = random_labels()
    mutants = [labels[::-1], labels[:, ::-1], labels[:, :, ::-1], *(np.roll(labels, 1, axis) for axis in range(3))]
    for number, wrong in enumerate(mutants):
        path = tmp_path / f"{number}.dcm"
        assert (read_labels(write(path, wrong, series, labelmap), series) != labels).mean() > 0.1
        (found,), _ = read_by_dcmqi(path, tmp_path / str(number), series)
        assert (found != labels).mean() > 0.1


@settings(deadline=None, max_examples=25)
@given(
    labels=arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 0, 0, 1, 2, 3]), fill=st.just(0)),
    labelmap=st.booleans(),
)
def test_any_labels_come_back(
    tmp_path_factory: pytest.TempPathFactory, series: DicomSeries, labels: NDArray[np.uint8], labelmap: bool
) -> None:
    dataset = write(tmp_path_factory.mktemp("any") / "a.dcm", labels, series, labelmap)
    np.testing.assert_array_equal(read_labels(dataset, series), labels)


def test_the_real_head(tmp_path: Path) -> None:
    folder = SHARED / "mr_head_dicom"
    if not folder.is_dir():
        pytest.skip(f"mr_head_dicom is not at {folder}; it is no part of the project")
    volume = read_volume(folder)
    assert volume.series is not None
    middle = slice(70, 110)  # for time's sake
    series = DicomSeries(volume.series.uid, "MR", volume.series.frames[middle])
    values = volume.array[:, :, middle]
    labels = np.searchsorted(np.quantile(values, (0.9, 0.99)), values).astype(np.uint8)
    for labelmap in (False, True):
        path = tmp_path / f"{labelmap}.dcm"
        dataset = write(path, labels, series, labelmap)
        np.testing.assert_array_equal(read_labels(dataset, series), labels)
        (found,), segments = read_by_dcmqi(path, tmp_path / str(labelmap), series)
        np.testing.assert_array_equal(found, labels)
        assert [one["SegmentLabel"] for one in segments][-3:-1] == ["liver", "linke Niere ä 腎"]
    source = dcmread(series.frames[0].path, stop_before_pixels=True)
    for keyword in ("PatientName", "PatientID", "AccessionNumber", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert dataset[keyword].value == source[keyword].value


def test_binary_segments_are_numbered_without_gaps_and_label_maps_by_value(tmp_path: Path, series: DicomSeries) -> None:
    table = [Label(300, "c", (1, 2, 3)), Label(5, "b", (1, 2, 3)), Label(2, "a", (1, 2, 3))]
    labels = random_labels().astype(np.uint16)
    labels[labels == 2] = 300
    labels[labels == 1] = 5
    binary = write(tmp_path / "a.dcm", labels, series, table=table)
    assert [(one.SegmentNumber, one.SegmentLabel) for one in binary.SegmentSequence] == [(1, "a"), (2, "b"), (3, "c")]
    found = read_by_hand(binary, series)
    for number, value in ((1, 2), (2, 5), (3, 300)):
        np.testing.assert_array_equal(found[number], labels == value)
    label_map = write(tmp_path / "b.dcm", labels, series, True, table)
    assert [one.SegmentNumber for one in label_map.SegmentSequence] == [0, 2, 5, 300]
    assert label_map.BitsAllocated == 16
    np.testing.assert_array_equal(read_labels(label_map, series), labels)


def test_labels_may_overlap(tmp_path: Path) -> None:
    series, _ = make_series(tmp_path / "scan", SHAPE)
    labels = np.random.default_rng(1).integers(0, 2, (3, *SHAPE)).astype(np.uint8)
    labels[1] = 0
    dataset = write(tmp_path / "a.dcm", labels, series)
    assert dataset.SegmentsOverlap == "YES"
    found = read_by_hand(dataset, series)
    for number in (1, 2, 3):
        np.testing.assert_array_equal(found[number], labels[number - 1])
    layers, _ = read_by_dcmqi(tmp_path / "a.dcm", tmp_path / "dcmqi", series)
    for value in (1, 3):
        np.testing.assert_array_equal(sum((layer == value).astype(int) for layer in layers), labels[value - 1])
    with pytest.raises(TomosegError, match=r"a\.dcm: a label map segmentation cannot hold labels that overlap"):
        write(tmp_path / "a.dcm", labels, series, labelmap=True)
    more = [*TABLE, Label(9, "beyond", (1, 2, 3))]
    assert not read_by_hand(write(tmp_path / "b.dcm", labels, series, table=more), series)[4].any()


@pytest.mark.parametrize("labelmap", [False, True])
def test_no_label_at_all_makes_a_valid_and_small_file(tmp_path: Path, labelmap: bool) -> None:
    series, _ = make_series(tmp_path / "scan", SHAPE, "oblique")
    dataset = write(tmp_path / "a.dcm", np.zeros(SHAPE, np.uint8), series, labelmap)
    assert not read_labels(dataset, series).any()
    assert dataset.NumberOfFrames == (1 if labelmap else 3)
    assert len(dataset.SourceImageSequence) == SHAPE[2]
    found, _ = read_by_dcmqi(tmp_path / "a.dcm", tmp_path / "dcmqi", series)
    assert not any(array.any() for array in found)
    overlapping = np.zeros((2, *SHAPE), np.uint8)
    assert not read_labels(write(tmp_path / "b.dcm", overlapping, series), series).any()


def test_segments_say_what_they_are(tmp_path: Path, series: DicomSeries) -> None:
    binary, label_map = (write(tmp_path / f"{kind}.dcm", random_labels(), series, kind) for kind in (False, True))
    assert (binary.SOPClassUID, binary.SegmentationType) == (SEGMENTATION, "BINARY")
    assert (label_map.SOPClassUID, label_map.SegmentationType) == (LABEL_MAP, "LABELMAP")
    for dataset in (binary, label_map):
        assert (dataset.Modality, dataset.ContentLabel, dataset.Manufacturer) == ("SEG", "SEGMENTATION", "tomoseg")
        assert dataset.SoftwareVersions[-1] == "hippocampus 1.2.0"
        described = [one for one in dataset.SegmentSequence if one.SegmentNumber > 0]
        assert [one.SegmentNumber for one in described] == [1, 2, 3]  # the last one although it does not occur
        assert [one.SegmentLabel for one in described] == ["liver", "linke Niere ä 腎", "n" * 64]
        for one, label in zip(described, TABLE, strict=True):
            assert one.SegmentAlgorithmType == "AUTOMATIC"
            assert one.SegmentAlgorithmName == "hippocampus"
            (algorithm,) = one.SegmentationAlgorithmIdentificationSequence
            assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("hippocampus", "1.2.0")
            (category,), (kind,) = one.SegmentedPropertyCategoryCodeSequence, one.SegmentedPropertyTypeCodeSequence
            assert (category.CodeValue, category.CodingSchemeDesignator) == (label.category.value, "SCT")
            assert (kind.CodeValue, kind.CodeMeaning) == (label.kind.value, label.kind.meaning)
            colour = CIELabColor.from_dicom_value(one.RecommendedDisplayCIELabValue).to_rgb()
            np.testing.assert_allclose(colour, label.colour, atol=1)
            modifiers = [item.CodeMeaning for item in kind.get("SegmentedPropertyTypeModifierCodeSequence", ())]
            assert modifiers == ([label.modifier.meaning] if label.modifier else [])
        assert len({one.TrackingUID for one in described}) == 3
    assert binary.SOPInstanceUID != label_map.SOPInstanceUID
    assert binary.SeriesInstanceUID != label_map.SeriesInstanceUID
    assert binary.SegmentsOverlap == "NO"


def test_dcmqi_knows_every_segment(tmp_path: Path) -> None:
    series, _ = make_series(tmp_path / "scan", SHAPE)
    labels = random_labels()
    labels[0, 0, 0] = 3
    write(tmp_path / "a.dcm", labels, series)
    _, (liver, kidney, rest) = read_by_dcmqi(tmp_path / "a.dcm", tmp_path / "dcmqi", series)
    assert (liver["SegmentLabel"], kidney["SegmentLabel"]) == ("liver", "linke Niere ä 腎")
    assert liver["SegmentAlgorithmType"] == "AUTOMATIC"
    assert kidney["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == "64033007"
    assert kidney["SegmentedPropertyTypeModifierCodeSequence"]["CodeMeaning"] == "Left"
    assert "SegmentedPropertyTypeModifierCodeSequence" not in rest
    np.testing.assert_allclose(liver["recommendedDisplayRGBValue"], TABLE[0].colour, atol=2)


@pytest.mark.parametrize("storage", STORAGES)
def test_everything_is_referred_to(tmp_path: Path, storage: str) -> None:
    series, _ = make_series(tmp_path / "scan", SHAPE, storage=storage)
    dataset = write(tmp_path / "a.dcm", random_labels(), series)
    source = dcmread(series.frames[0].path)
    (referenced,) = dataset.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID != dataset.SeriesInstanceUID
    wanted = {dcmread(frame.path).SOPInstanceUID for frame in series.frames}
    for items in (referenced.ReferencedInstanceSequence, dataset.SourceImageSequence):
        assert {item.ReferencedSOPClassUID for item in items} == {source.SOPClassUID}
        assert {item.ReferencedSOPInstanceUID for item in items} == wanted
        assert len(items) == len(wanted)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyID"):
        assert dataset[keyword].value == source[keyword].value != ""
    assert dataset.StudyInstanceUID == source.StudyInstanceUID
    assert dataset.FrameOfReferenceUID == source.FrameOfReferenceUID
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SpacingBetweenSlices == 2.5


def test_every_value_is_as_the_standard_has_it(
    tmp_path: Path, series: DicomSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    for labelmap in (False, True):
        dataset = write(tmp_path / "a.dcm", random_labels(), series, labelmap)
        assert sum(1 for _ in dataset.iterall()) > 200
        assert dataset.ContentCreatorName is not None


@pytest.mark.parametrize(("number", "expected"), [(3, 1003), (2**31 - 5, 2**31 - 1), (-7, 1000), (None, 1000)])
def test_the_series_number_follows_from_the_scans(tmp_path: Path, number: int | None, expected: int) -> None:
    series, _ = make_series(tmp_path / "scan", SHAPE, SeriesNumber=number)
    assert write(tmp_path / "a.dcm", random_labels(), series).SeriesNumber == expected


def test_what_the_scan_does_not_say_is_left_empty(tmp_path: Path) -> None:
    series, _ = make_series(tmp_path / "scan", SHAPE)
    kept = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Rows", "Columns", "PixelSpacing"]
    for frame in series.frames:
        slim = dcmread(frame.path, specific_tags=[*kept, "ImagePositionPatient", "ImageOrientationPatient"])
        slim.save_as(frame.path)
    labels = random_labels()
    for labelmap in (False, True):
        dataset = write(tmp_path / f"{labelmap}.dcm", labels, series, labelmap)
        np.testing.assert_array_equal(read_labels(dataset, series), labels)
        (found,), _ = read_by_dcmqi(tmp_path / f"{labelmap}.dcm", tmp_path / str(labelmap), series)
        np.testing.assert_array_equal(found, labels)
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "AccessionNumber", "StudyID", "StudyDate"):
            assert keyword in dataset
            assert not dataset[keyword].value


def test_patients_are_copied_as_they_stand_and_named_nowhere(tmp_path: Path) -> None:
    secret = "Müller^Jürgen"
    wrong = {"PatientBirthDate": "secret day", "PatientSex": "SECRET SEX TOO LONG", "PatientID": "secret" * 20}
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        series, _ = make_series(
            tmp_path / "scan", SHAPE, PatientName=secret, SpecificCharacterSet="ISO_IR 100", **wrong
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_dicom_seg(tmp_path / "a.dcm", label_map(random_labels(), series, TABLE, "a", "1"))
    with pydicom.config.disable_value_validation():
        dataset = dcmread(tmp_path / "a.dcm")
        assert dataset.PatientName == secret
        assert {keyword: dataset[keyword].value for keyword in wrong} == wrong
        assert dataset.SegmentSequence[1].SegmentLabel == TABLE[1].name
    for name, labels in (("a.nii", random_labels()), ("b.dcm", random_labels() + 7)):
        with pytest.raises(TomosegError) as caught:
            write_dicom_seg(tmp_path / name, label_map(labels, series, TABLE, "a", "1"))
        assert "secret" not in str(caught.value).lower()


def test_what_cannot_be_written_is_reported_in_one_line(
    tmp_path: Path, series: DicomSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = random_labels()
    (tmp_path / "file").touch()
    faults: list[tuple[str, NDArray[Any], str]] = [
        ("a.seg", labels, r"expected a name that ends in \.dcm"),
        ("a.dcm", labels[1:], "expected labels for a series of 13×11×6, got 12×11×6"),
        ("a.dcm", labels + 2, r"got labels \[1, 2, 3\] and values \[2, 3, 4\]"),
        ("file/a.dcm", labels, "cannot be written"),
    ]
    for name, array, expected in faults:
        with pytest.raises(TomosegError, match=expected) as caught:
            write(tmp_path / name, array, series)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(caught.value)
    with full_disk(3000), pytest.raises(TomosegError, match=r"cannot be written: .*too large"):
        write(tmp_path / "a.dcm", labels, series)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(TomosegError, match=r"highdicom is not installed. .*pip install highdicom$"):
        write(tmp_path / "a.dcm", labels, series)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_series_that_is_gone_is_reported(tmp_path: Path) -> None:
    series, _ = make_series(tmp_path / "scan", SHAPE)
    series.frames[2].path.unlink()
    with pytest.raises(TomosegError, match=r"its header can no longer be read") as caught:
        write(tmp_path / "a.dcm", random_labels(), series)
    assert str(caught.value).startswith(str(series.frames[2].path))
    assert not (tmp_path / "a.dcm").exists()


def test_more_labels_than_a_byte_holds(tmp_path: Path, series: DicomSeries) -> None:
    labels = np.random.default_rng(2).integers(0, 301, SHAPE).astype(np.uint16)
    table = [Label(value, f"label {value}", default_colour(value)) for value in range(1, 301)]
    for labelmap in (False, True):
        np.testing.assert_array_equal(
            read_labels(write(tmp_path / "a.dcm", labels, series, labelmap, table), series), labels
        )

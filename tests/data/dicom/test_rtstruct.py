from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage
from pydicom.valuerep import validate_value
from skimage.draw import polygon2mask

from support.dicom_results import label_map, rasterise, read_back
from support.dicoms import DIRECTIONS, make_series
from support.disk import full_disk
from support.tiers import examples
from tomoseg import Grid, TomosegError
from tomoseg.data.dicom.contours import trace_contours
from tomoseg.data.dicom.reference import text
from tomoseg.data.dicom.rtstruct import write_rtstruct
from tomoseg.data.labels import Code, Label
from tomoseg.data.volume import DicomSeries

SHAPE = (13, 11, 5)
ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
TABLE = (
    Label(1, "liver", (221, 130, 101), ANATOMY, Code("10200004", "SCT", "Liver")),
    Label(
        3, "linke Niere ä 腎", (0, 255, 7), ANATOMY, Code("64033007", "SCT", "Kidney"), Code("7771000", "SCT", "Left")
    ),
    Label(4, "n" * 80 + "\\", (1, 2, 3)),
)
STORAGES = ("classic", "enhanced", "two files")
Series = tuple[DicomSeries, Grid]

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


def random_labels(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> NDArray[np.uint8]:
    """Islands, holes, islands in holes, at the border too."""
    weights = (0.35, 0.55, 0.1)
    return np.random.default_rng(seed).choice(np.array([0, 1, 3], np.uint8), shape, p=weights)


def write(path: Path, labels: NDArray[Any], series: DicomSeries, grid: Grid) -> Dataset:
    write_rtstruct(path, label_map(labels, series, TABLE, "hippocampus", "1.2.0", grid))
    return dcmread(path)


def winding(polygon: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """How often a polygon runs round each pixel's centre: the sum of the angles that its edges take up."""
    centres = np.moveaxis(np.indices(shape), 0, -1)[..., None, :]
    one, other = polygon - centres, np.roll(polygon, -1, axis=0) - centres
    cross = one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0]
    return np.asarray(np.arctan2(cross, (one * other).sum(-1)).sum(-1) / (2 * np.pi))


@settings(deadline=None, max_examples=examples(400))
@given(mask=masks)
def test_contours_hold_the_centres_of_the_mask_by_any_rule(mask: NDArray[np.bool_]) -> None:
    turns = np.zeros(mask.shape)
    crossings = np.zeros(mask.shape, int)
    for polygon in trace_contours(mask):
        assert len(polygon) >= 4
        turns += winding(polygon, mask.shape)
        crossings += polygon2mask(mask.shape, polygon)
    np.testing.assert_allclose(np.abs(turns), mask, atol=1e-6)  # non-zero winding: 1 inside, 0 outside
    np.testing.assert_array_equal(crossings, mask)  # even-odd


@settings(deadline=None, max_examples=examples(200))
@given(mask=masks)
def test_contours_pass_no_centre_and_stay_half_way(mask: NDArray[np.bool_]) -> None:
    for polygon in trace_contours(mask):
        doubled = polygon * 2
        np.testing.assert_array_equal(doubled, np.rint(doubled))
        for start, stop in zip(doubled, np.roll(doubled, -1, axis=0), strict=True):
            steps = int(np.abs(stop - start).max())
            passed = np.linspace(start, stop, steps + 1)  # all that have whole coordinates
            assert not ((passed % 2) == 0).all(axis=1).any()


def test_a_ring_in_a_ring_is_two_contours_without_needless_points() -> None:
    mask = np.zeros((20, 20), bool)
    mask[1:19, 1:19] = True
    mask[4:16, 4:16] = False
    mask[7:13, 7:13] = True
    outer, island = sorted(trace_contours(mask), key=len, reverse=True)
    assert len(island) == 8  # a square with its corners cut
    assert len(outer) == 8 + 8 + 2  # the hole's, too, and the channel's ends, one on an edge of the hole


def test_a_sieve_of_forty_thousand_holes_is_one_contour() -> None:
    mask = np.ones((401, 401), bool)
    mask[1::2, 1::2] = False
    (polygon,) = trace_contours(mask)
    (i, j), (next_i, next_j) = polygon.T, np.roll(polygon, -1, axis=0).T
    area = abs((i * next_j - j * next_i).sum()) / 2
    assert area == 401 * 401 - 4 / 8 - 200 * 200 / 2  # less four corners, and a diamond for each hole


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("kind", DIRECTIONS)
def test_the_same_voxels_at_the_same_place(tmp_path: Path, kind: str, storage: str) -> None:
    series, grid = make_series(tmp_path / "scan", SHAPE, kind, storage)
    labels = random_labels()
    labels[:, :, 2] = 0
    np.testing.assert_array_equal(read_back(write(tmp_path / "a.dcm", labels, series, grid), series), labels)


@pytest.fixture(scope="module")
def tilted(tmp_path_factory: pytest.TempPathFactory) -> Series:
    return make_series(tmp_path_factory.mktemp("tilted") / "scan", SHAPE, "tilted")


def test_a_mirror_or_a_shift_by_one_voxel_would_be_seen(tmp_path: Path, tilted: Series) -> None:
    series, grid = tilted
    labels = random_labels()
    for wrong in (labels[::-1], labels[:, ::-1], labels[:, :, ::-1], *(np.roll(labels, 1, axis) for axis in range(3))):
        found = read_back(write(tmp_path / "wrong.dcm", wrong, series, grid), series)
        assert (found != labels).mean() > 0.1


@settings(deadline=None, max_examples=25)
@given(labels=arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 0, 1, 3, 4])))
def test_any_labels_come_back(
    tmp_path_factory: pytest.TempPathFactory, tilted: Series, labels: NDArray[np.uint8]
) -> None:
    series, grid = tilted
    dataset = write(tmp_path_factory.mktemp("any") / "a.dcm", labels, series, grid)
    np.testing.assert_array_equal(read_back(dataset, series), labels)


def test_labels_may_overlap(tmp_path: Path, tilted: Series) -> None:
    series, grid = tilted
    labels = np.random.default_rng(3).integers(0, 2, (3, *SHAPE)).astype(np.uint8)
    labels[1] = 0
    found = dict(rasterise(write(tmp_path / "a.dcm", labels, series, grid), series))
    assert list(found) == [1, 3, 4]
    np.testing.assert_array_equal(found[1], labels[0])
    np.testing.assert_array_equal(found[3], labels[2])
    assert not found[4].any()


@given(name=st.text(max_size=100), limit=st.integers(1, 64))
def test_any_text_becomes_a_value(name: str, limit: int) -> None:
    value = text(name, limit, "unnamed"[:limit])
    assert 1 <= len(value) <= limit
    validate_value("LO", value, pydicom.config.RAISE)


def test_contours_follow_slices_that_are_not_evenly_spaced(tmp_path: Path) -> None:
    series, grid = make_series(tmp_path / "scan", SHAPE, "oblique")
    labels = random_labels()
    for frame, shift in zip(series.frames, (0.0, 0.14, -0.1, 0.1, 0.0), strict=True):
        header = dcmread(frame.path)
        header.ImagePositionPatient = [part + shift for part in header.ImagePositionPatient]
        header.save_as(frame.path)
    # `rasterise` refuses points outside the images' planes
    np.testing.assert_array_equal(read_back(write(tmp_path / "a.dcm", labels, series, grid), series), labels)


@pytest.mark.parametrize("storage", STORAGES)
def test_everything_is_referred_to(tmp_path: Path, storage: str) -> None:
    series, grid = make_series(tmp_path / "scan", SHAPE, storage=storage)
    dataset = write(tmp_path / "a.dcm", random_labels(), series, grid)
    source = dcmread(series.frames[0].path)
    (frame,) = dataset.ReferencedFrameOfReferenceSequence
    (study,) = frame.RTReferencedStudySequence
    (referenced,) = study.RTReferencedSeriesSequence
    assert frame.FrameOfReferenceUID == dataset.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert study.ReferencedSOPInstanceUID == dataset.StudyInstanceUID == source.StudyInstanceUID
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID != dataset.SeriesInstanceUID
    found = {
        (item.ReferencedSOPInstanceUID, int(number))
        for item in referenced.ContourImageSequence
        for number in np.atleast_1d(item.get("ReferencedFrameNumber", 1))
    }
    wanted = {(dcmread(one.path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID, one.number) for one in series.frames}
    assert found == wanted
    for region in dataset.StructureSetROISequence:
        assert region.ReferencedFrameOfReferenceUID == source.FrameOfReferenceUID
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyID"):
        assert dataset[keyword].value == source[keyword].value != ""
    assert dataset.SeriesNumber == source.SeriesNumber + 20_000


def test_regions_say_what_they_are(tmp_path: Path, tilted: Series) -> None:
    series, grid = tilted
    dataset = write(tmp_path / "a.dcm", random_labels(), series, grid)
    assert dataset.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian  # explicit ones hold 64 KiB of contour
    assert dataset.SOPClassUID == dataset.file_meta.MediaStorageSOPClassUID == RTStructureSetStorage
    assert (dataset.Modality, dataset.ApprovalStatus) == ("RTSTRUCT", "UNAPPROVED")
    assert dataset.SoftwareVersions[-1] == "hippocampus 1.2.0"
    regions, outlines = dataset.StructureSetROISequence, dataset.ROIContourSequence
    observations = dataset.RTROIObservationsSequence
    assert [one.ROINumber for one in regions] == [1, 3, 4]
    assert [one.ReferencedROINumber for one in outlines] == [one.ReferencedROINumber for one in observations]
    assert [one.ROIName for one in regions] == ["liver", "linke Niere ä 腎", "n" * 64]
    assert {one.ROIGenerationAlgorithm for one in regions} == {"AUTOMATIC"}
    assert [list(one.ROIDisplayColor) for one in outlines] == [list(label.colour) for label in TABLE]
    assert "ContourSequence" not in outlines[2]
    (kind,) = observations[1].RTROIIdentificationCodeSequence
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("64033007", "SCT", "Kidney")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "7771000"
    assert [one.RTROIInterpretedType for one in observations] == ["ORGAN", "ORGAN", ""]
    again = write(tmp_path / "b.dcm", random_labels(), series, grid)
    assert again.SOPInstanceUID != dataset.SOPInstanceUID
    assert again.SeriesInstanceUID != dataset.SeriesInstanceUID


def test_every_value_is_as_the_standard_has_it(tmp_path: Path, tilted: Series, monkeypatch: pytest.MonkeyPatch) -> None:
    series, grid = tilted
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    dataset = write(tmp_path / "a.dcm", random_labels(), series, grid)
    assert sum(1 for _ in dataset.iterall()) > 500
    numbers = [
        str(number)
        for region in dataset.ROIContourSequence
        for contour in region.get("ContourSequence", ())
        for number in contour.ContourData
    ]
    assert max(map(len, numbers)) <= 16


def test_contour_points_are_exact_to_a_ten_thousandth_of_a_mm(tmp_path: Path) -> None:
    series, grid = make_series(tmp_path / "scan", SHAPE, "oblique")
    labels = np.zeros(SHAPE, np.uint8)
    labels[5, 6, 3] = 1
    (contour,) = write(tmp_path / "a.dcm", labels, series, grid).ROIContourSequence[0].ContourSequence
    points = np.array(contour.ContourData, float).reshape(-1, 3) * [-1, -1, 1]
    corners = np.array([(4.5, 6, 3, 1), (5.5, 6, 3, 1), (5, 5.5, 3, 1), (5, 6.5, 3, 1)]) @ grid.affine[:3].T
    distances = np.linalg.norm(points[:, None] - corners, axis=-1)
    assert sorted(distances.argmin(1)) == [0, 1, 2, 3]
    assert distances.min(1).max() < 1e-4


def test_what_the_scan_does_not_say_is_left_empty(tmp_path: Path) -> None:
    series, grid = make_series(tmp_path / "scan", SHAPE)
    kept = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Rows", "Columns", "PixelSpacing"]
    for frame in series.frames:
        header = dcmread(frame.path)
        slim = dcmread(
            frame.path, specific_tags=[*kept, "ImagePositionPatient", "ImageOrientationPatient", "PixelData"]
        )
        slim.PixelData = header.PixelData
        slim["PixelData"].VR = "OW"
        slim.save_as(frame.path)
    labels = random_labels()
    dataset = write(tmp_path / "a.dcm", labels, series, grid)
    np.testing.assert_array_equal(read_back(dataset, series), labels)
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "AccessionNumber", "StudyID", "StudyDate"):
        assert keyword in dataset
        assert not dataset[keyword].value
    other = write(tmp_path / "b.dcm", labels, series, grid)
    assert dataset.FrameOfReferenceUID == other.FrameOfReferenceUID  # made up, but one for the series
    assert dataset.StudyInstanceUID == other.StudyInstanceUID


def test_patients_are_copied_as_they_stand_and_named_nowhere(tmp_path: Path) -> None:
    secret = "Müller^Jürgen"
    wrong = {"PatientBirthDate": "secret day", "PatientSex": "SECRET SEX TOO LONG", "PatientID": "secret" * 20}
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        series, grid = make_series(
            tmp_path / "scan", SHAPE, PatientName=secret, SpecificCharacterSet="ISO_IR 100", **wrong
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_rtstruct(tmp_path / "a.dcm", label_map(random_labels(), series, TABLE, "a", "1", grid))
    with pydicom.config.disable_value_validation():
        dataset = dcmread(tmp_path / "a.dcm")
        assert dataset.PatientName == secret
        assert {keyword: dataset[keyword].value for keyword in wrong} == wrong
        assert dataset.StructureSetROISequence[1].ROIName == TABLE[1].name
    for name, labels in (("a.nii", random_labels()), ("b.dcm", random_labels() + 7)):
        with pytest.raises(TomosegError) as caught:
            write_rtstruct(tmp_path / name, label_map(labels, series, TABLE, "a", "1", grid))
        assert "secret" not in str(caught.value).lower()


def test_what_cannot_be_written_is_reported_in_one_line(
    tmp_path: Path, tilted: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    series, grid = tilted
    labels = random_labels()
    (tmp_path / "file").touch()
    moved = Grid(SHAPE, grid.affine + np.array([[0, 0, 0, 1]] * 3 + [[0] * 4]))
    cropped = Grid((13, 11, 4), grid.affine)
    faults: list[tuple[str, NDArray[Any], Grid, str]] = [
        ("a.rtstruct", labels, grid, r"expected a name that ends in \.dcm"),
        ("a.dcm", labels[:, :, :4], cropped, "expected labels for a series of 13×11×5, got 13×11×4"),
        ("a.dcm", labels, cropped, "expected labels on the scan's grid of 13×11×4, got 13×11×5"),
        ("a.dcm", labels, moved, r"expected the grid of the series, got one that is 1\.73 mm off it"),
        ("a.dcm", labels + 2, grid, r"got labels \[1, 3, 4\] and values \[2, 3, 5\]"),
        ("file/a.dcm", labels, grid, "cannot be written"),
    ]
    for name, array, where, expected in faults:
        with pytest.raises(TomosegError, match=expected) as caught:
            write_rtstruct(tmp_path / name, label_map(array, series, TABLE, "a", "1", where))
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(caught.value)
    with full_disk(3000), pytest.raises(TomosegError, match=r"cannot be written: .*too large"):
        write_rtstruct(tmp_path / "a.dcm", label_map(labels, series, TABLE, "a", "1", grid))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_series_that_is_gone_is_reported(tmp_path: Path) -> None:
    series, grid = make_series(tmp_path / "scan", SHAPE)
    series.frames[2].path.write_bytes(b"no longer DICOM")
    with pytest.raises(TomosegError, match=r"its header can no longer be read") as caught:
        write(tmp_path / "a.dcm", random_labels(), series, grid)
    assert str(caught.value).startswith(str(series.frames[2].path))
    series.frames[1].path.unlink()
    with pytest.raises(TomosegError, match=r"its header can no longer be read"):
        write(tmp_path / "a.dcm", random_labels(), series, grid)
    assert not (tmp_path / "a.dcm").exists()

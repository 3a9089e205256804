"""DICOM Segmentations that a person drew, of series that lack what others have; also with older packages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from support.dicom_results import label_map, read_labels, run_dciodvfy
from support.dicoms import make_series
from tomoseg.core.version import __version__
from tomoseg.data.dicom.reference import WHOLE_FILE
from tomoseg.data.dicom.seg_writer import write_dicom_seg
from tomoseg.data.labels import Code, Label
from tomoseg.data.segments import LabelMap
from tomoseg.data.volume import DicomSeries

SHAPE = (13, 11, 6)
TABLE = (
    Label(1, "anterior", (221, 130, 101), kind=Code("5366008", "SCT", "Hippocampus")),
    Label(2, "Hippocampe postérieur", (0, 255, 7)),
    Label(3, "white", (255, 255, 255)),
    Label(4, "black", (0, 0, 0)),
)
# highdicom 0.28's CIELabColor.from_rgb
COLOURS = ((41661, 41167, 40792), (57503, 10771, 54139), (65535, 32896, 32896), (0, 32896, 32896))
ESSENTIAL = {
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "PixelData", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation",
}  # fmt: skip


def keep_essentials(header: Dataset) -> None:
    for element in list(header):
        if element.keyword not in ESSENTIAL:
            del header[element.tag]


def set_values(**values: object) -> Callable[[Dataset], None]:
    def change(header: Dataset) -> None:
        for keyword, value in values.items():
            setattr(header, keyword, value)

    return change


LACKS: dict[str, Callable[[Dataset], None]] = {
    "all that it can": keep_essentials,
    "how much was lost": set_values(LossyImageCompression="01"),
    "whether something was lost": set_values(LossyImageCompression=""),
    "nothing of the loss": set_values(
        LossyImageCompression="01", LossyImageCompressionRatio=[10, 20], LossyImageCompressionMethod="ISO_10918_1"
    ),
    "a modality": set_values(Modality=""),
    "a thickness": set_values(SliceThickness=None),
    "a frame of reference": set_values(FrameOfReferenceUID=""),
    "numbers and dates": set_values(SeriesNumber=None, StudyDate="", StudyTime="", StudyID="", AccessionNumber=""),
    "a patient": set_values(PatientName="", PatientID="", PatientBirthDate="", PatientSex=""),
}


def series_that_lacks(folder: Path, change: Callable[[Dataset], None]) -> DicomSeries:
    series, _ = make_series(folder, SHAPE, "oblique")
    for path in {frame.path for frame in series.frames}:
        header = dcmread(path)
        change(header)
        header.save_as(path, **WHOLE_FILE)
    return series


def drawn(series: DicomSeries, person: str | None, algorithm: str = "", version: str = "") -> LabelMap:
    labels = np.random.default_rng(0).integers(0, 5, SHAPE).astype(np.uint8)
    return replace(label_map(labels, series, TABLE, algorithm, version), person=person)


@pytest.mark.parametrize("lack", LACKS)
def test_what_a_series_lacks_is_no_failure(lack: str, tmp_path: Path) -> None:
    series = series_that_lacks(tmp_path / "scan", LACKS[lack])
    found = drawn(series, "ann")
    write_dicom_seg(path := tmp_path / "seg.dcm", found)
    dataset = dcmread(path)
    np.testing.assert_array_equal(read_labels(dataset, series), found.labels)
    assert not [line for line in run_dciodvfy(path) if line.startswith("Error")]
    assert dataset.LossyImageCompression == ("01" if "lo" in lack and "whether" not in lack else "00")


@pytest.mark.parametrize(
    ("person", "algorithm", "kind", "creator", "software"),
    [
        (None, "hippocampus", "AUTOMATIC", "tomoseg^", ["hippocampus weights 3"]),
        ("Ann=Lee", "hippocampus", "SEMIAUTOMATIC", "Ann Lee^", ["hippocampus weights 3"]),
        ("Müller^Ann", "", "MANUAL", "Müller^Ann", []),
        ("", "", "MANUAL", "", []),
        ("x" * 100, "", "MANUAL", "x" * 63 + "^", []),
    ],
)
def test_who_drew_it(
    person: str | None, algorithm: str, kind: str, creator: str, software: list[str], tmp_path: Path
) -> None:
    series, _ = make_series(tmp_path / "scan", SHAPE)
    write_dicom_seg(path := tmp_path / "seg.dcm", drawn(series, person, algorithm, "weights 3" if algorithm else ""))
    dataset = dcmread(path)
    assert str(dataset.ContentCreatorName or "") == creator
    versions = dataset.SoftwareVersions
    assert ([versions] if isinstance(versions, str) else [*versions]) == [f"tomoseg {__version__}", *software]
    assert dataset.SeriesDate == dataset.ContentDate != ""
    assert dataset.SeriesTime == dataset.ContentTime != ""
    for one, label, colour in zip(dataset.SegmentSequence, TABLE, COLOURS, strict=True):
        assert (one.SegmentLabel, one.SegmentAlgorithmType) == (label.name, kind)
        assert one.get("SegmentAlgorithmName", "") == algorithm
        assert ("SegmentationAlgorithmIdentificationSequence" in one) is bool(algorithm)
        np.testing.assert_allclose(one.RecommendedDisplayCIELabValue, colour, atol=5)
    assert run_dciodvfy(path) in ([], ["Segmentation"])


def test_each_submission_has_a_series_number_of_its_own(tmp_path: Path) -> None:
    series, _ = make_series(tmp_path / "scan", SHAPE, SeriesNumber=3)
    numbers = []
    for earlier in range(3):
        write_dicom_seg(path := tmp_path / "seg.dcm", replace(drawn(series, "ann"), earlier=earlier))
        numbers.append(int(dcmread(path).SeriesNumber))
    assert numbers == [1003, 2003, 3003]

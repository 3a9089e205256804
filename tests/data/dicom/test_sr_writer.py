"""Measurement reports, judged by readers that are not ours: highdicom, dcmqi, dcmtk and dicom3tools."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from support.dicom_results import label_map, run_dciodvfy
from support.dicoms import make_series
from tomoseg import Segmentation
from tomoseg.bundle.confidence import ExpectedDice
from tomoseg.data.dicom.rtstruct import write_rtstruct
from tomoseg.data.dicom.sr_writer import write_dicom_sr
from tomoseg.data.geometry import Grid
from tomoseg.data.labels import Code, Label
from tomoseg.data.segments import LabelMap, Predecessor
from tomoseg.data.volume import DicomSeries

SHAPE = (13, 11, 6)
ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
KIDNEY, LEFT = Code("64033007", "SCT", "Kidney"), Code("7771000", "SCT", "Left")
TABLE = (
    Label(1, "liver", (221, 130, 101), ANATOMY, Code("10200004", "SCT", "Liver")),
    Label(2, "linke Niere ä", (0, 255, 7), ANATOMY, KIDNEY, side=LEFT),
    Label(5, "spleen", (1, 2, 3), ANATOMY, Code("78961009", "SCT", "Spleen")),
)
VOXEL_ML = 0.0375
COUNTS = {1: 24, 2: 7, 5: 0}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> DicomSeries:
    equipment = {"ManufacturerModelName": "Scanner 1", "StationName": "CT 2"}
    return make_series(tmp_path_factory.mktemp("sr") / "scan", SHAPE, SeriesNumber=3, **equipment)[0]


def labelled(series: DicomSeries, **changed: Any) -> LabelMap:
    labels = np.zeros(SHAPE, np.uint8)
    labels.ravel()[:24], labels.ravel()[100:107] = 1, 2
    grid = Grid(SHAPE, np.diag([2.5, 3, 5, 1]))
    return replace(label_map(labels, series, TABLE, "organs", "1.2.0", grid), **changed)


def write(folder: Path, found: LabelMap) -> tuple[Dataset, Dataset]:
    """Return report and segmentation."""
    folder.mkdir(exist_ok=True)
    write_dicom_sr(folder / "a_sr.dcm", found, folder / "a_seg.dcm")
    return dcmread(folder / "a_sr.dcm"), dcmread(folder / "a_seg.dcm")


def test_highdicom_reads_volumes_and_what_they_are_of(tmp_path: Path, series: DicomSeries) -> None:
    report, seg = write(tmp_path, labelled(series))
    read = hd.sr.Comprehensive3DSR.from_dataset(report)
    groups = read.content.get_volumetric_roi_measurement_groups()
    numbers = {one.SegmentLabel: one.SegmentNumber for one in seg.SegmentSequence}
    for label, group in zip(TABLE, groups, strict=True):
        (measured,) = group.get_measurements()
        assert (measured.name.value, measured.unit.value) == ("118565006", "cm3")
        assert measured.value == pytest.approx(COUNTS[label.value] * VOXEL_ML)
        assert group.finding_type.value == label.kind.value
        assert [site.value.value for site in group.finding_sites] == [label.kind.value] * bool(label.side)
        assert group.tracking_identifier == label.name
        region = group.referenced_segment[0]
        assert region.referenced_sop_instance_uid == seg.SOPInstanceUID
        assert region.referenced_segment_numbers == [numbers[label.name]]
    known = {instance for _, _, instance, _ in read.get_evidence()}
    assert known == {seg.SOPInstanceUID, *(dcmread(one.path).SOPInstanceUID for one in series.frames)}


def test_the_expected_dice_stands_beside_the_volume(tmp_path: Path, series: DicomSeries) -> None:
    found = labelled(series)
    values = vars(found) | {"expected_dice": {1: ExpectedDice(0.8512, 0.7, 1.0), 2: ExpectedDice(0.9, None, 1.0)}}
    report, _ = write(tmp_path, Segmentation(**values))
    assert not [line for line in run_dciodvfy(tmp_path / "a_sr.dcm") if line.startswith("Error")]
    groups = hd.sr.Comprehensive3DSR.from_dataset(report).content.get_volumetric_roi_measurement_groups()
    read = [{one.name.value: one.value for one in group.get_measurements()} for group in groups]
    assert [one.get("expected_dice") for one in read] == [0.851, None, None]
    assert read[0]["118565006"] == pytest.approx(24 * VOXEL_ML)


def test_dcmqi_reads_the_same_volumes(tmp_path: Path, series: DicomSeries) -> None:
    _, seg = write(tmp_path, labelled(series))
    tool = Path(sys.executable).with_name("tid1500reader")
    command = [str(tool), "--inputDICOM", str(tmp_path / "a_sr.dcm"), "--outputMetadata", str(tmp_path / "a.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    groups = json.loads((tmp_path / "a.json").read_text())["Measurements"]
    assert [one["Finding"]["CodeMeaning"] for one in groups] == [label.kind.meaning for label in TABLE]
    assert {one["segmentationSOPInstanceUID"] for one in groups} == {seg.SOPInstanceUID}
    volumes = [float(one["measurementItems"][0]["value"]) for one in groups]
    assert volumes == pytest.approx([VOXEL_ML * count for count in COUNTS.values()])


def test_the_tools_of_others_find_no_fault(tmp_path: Path, series: DicomSeries) -> None:
    write(tmp_path, labelled(series, replaces=(Predecessor("1.2.840.10008.5.1.4.1.1.88.34", "1.2.3", "1.2"),)))
    for path in (tmp_path / "a_sr.dcm", tmp_path / "a_seg.dcm"):
        assert not [line for line in run_dciodvfy(path) if line.startswith("Error")]
    if shutil.which("dsrdump") is None:
        pytest.skip("there is no dsrdump. Install it with: apt-get install dcmtk")
    done = subprocess.run(["dsrdump", str(tmp_path / "a_sr.dcm")], capture_output=True, text=True, check=False)
    assert not [line for line in done.stderr.splitlines() if not line.startswith("W:")]
    assert done.returncode == 0
    assert 'NUM:(,,"Volume")="0.9" (cm3,UCUM,"cubic centimeter")' in done.stdout


def test_a_result_has_the_same_uids_again(tmp_path: Path, series: DicomSeries) -> None:
    """Those of one scan by one bundle with one set of options; and each part has its own."""

    def uids(folder: str, series: DicomSeries, origin: str) -> list[str]:
        found = labelled(series, origin=origin)
        report, seg = write(tmp_path / folder, found)
        write_rtstruct(tmp_path / folder / "rt.dcm", replace(found, grid=grid))
        contours = dcmread(tmp_path / folder / "rt.dcm")
        parts = [one[key].value for one in (report, seg, contours) for key in ("SOPInstanceUID", "SeriesInstanceUID")]
        return [*parts, *(one.TrackingUID for one in seg.SegmentSequence)]

    series, grid = make_series(tmp_path / "scan", SHAPE)
    first = uids("first", series, "run")
    assert len(set(first)) == len(first)
    assert uids("again", series, "run") == first
    assert not set(first) & {*uids("other", series, "other run"), *uids("new", series, "")}
    part = labelled(replace(series, frames=series.frames[:5]), origin="run")
    report, seg = write(tmp_path / "cut", replace(part, labels=part.labels[..., :5]))
    assert not set(first) & {report.SOPInstanceUID, seg.SOPInstanceUID}


def test_a_result_says_what_it_replaces_and_where_the_images_are_from(tmp_path: Path, series: DicomSeries) -> None:
    first = write(tmp_path / "first", labelled(series))
    replaced = tuple(Predecessor(one.SOPClassUID, one.SOPInstanceUID, one.SeriesInstanceUID) for one in first)
    report, seg = write(tmp_path / "second", labelled(series, earlier=1, replaces=replaced))
    (study,) = report.PredecessorDocumentsSequence
    (item,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert item.ReferencedSOPInstanceUID == first[0].SOPInstanceUID
    assert seg.DerivationDescription == f"Replaces {first[1].SOPInstanceUID}"
    assert [int(one.SeriesNumber) for one in (*first, report, seg)] == [40003, 1003, 41003, 2003]
    for dataset in (report, seg):
        (scanner,) = dataset.ContributingEquipmentSequence
        assert (scanner.Manufacturer, scanner.StationName) == ("phantoms", "CT 2")
        assert scanner.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"
        assert dataset.PatientID == "4711"

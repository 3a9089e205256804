"""Several series in one folder, and several phases in one series: each result has a name of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from support.bundles import BUNDLE_NAME
from support.dicoms import write_enhanced, write_series
from support.trainings import tomoseg
from tomoseg import Grid, OutputOptions, Progress, Segmenter, TomosegError, read_volume, segment_batch, watch
from tomoseg.batch.cases import plan_cases
from tomoseg.core.notes import collect_notes

GRID = Grid((40, 48, 36), np.diag([-1.0, -1.0, 1.0, 1.0]))
ARRAY = np.random.default_rng(0).integers(0, 900, GRID.shape).astype(np.int16)


def add(
    folder: Path, uid: str, number: int | None, text: str = "phantom", modality: str = "MR", offset: int = 0
) -> None:
    names = [f"{uid}_{k}" for k in range(GRID.shape[2])]
    paths = write_series(
        folder,
        ARRAY + np.int16(offset),
        GRID,
        uid=uid,
        names=names,
        modality=modality,
        SeriesDescription=text,
        SeriesNumber=number or 3,
    )
    for path in () if number else paths:
        dataset = dcmread(path)
        del dataset.SeriesNumber
        dataset.save_as(path)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "in" / "doe"
    add(folder, "1.2.840.1111111.3", 3, "T1 axial")
    add(folder, "1.2.840.1111111.4", 4, "T2 axial")
    add(folder, "1.2.840.1111111.5", 4, "T2 coronal")
    add(folder, "1.2.840.1111111.6", None, "unknown")
    add(folder, "1.2.840.1111111.7", 7, "CT", modality="CT")
    return folder


def names(folder: Path, **options: Any) -> list[str]:
    return [case.output.name for case in plan_cases([folder], folder.parent / "out", **options)]


T1, AXIAL, CORONAL, UNKNOWN, CT = (
    f"doe_{tag}_seg.nii.gz" for tag in ("3", "4_111111.4", "4_111111.5", "111111.6", "7")
)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, [T1, AXIAL, CORONAL, UNKNOWN, CT]),
        ({"modality": "MR"}, [T1, AXIAL, CORONAL, UNKNOWN]),
        ({"modality": "CT"}, [CT]),
        ({"modality": "MR", "series": "all"}, [T1, AXIAL, CORONAL, UNKNOWN, CT]),
        ({"modality": "MR", "series": "t2*"}, [AXIAL, CORONAL]),
        ({"modality": "MR", "series": "T1 AXIAL"}, [T1]),
        ({"modality": "MR", "series": "CT"}, [CT]),
        ({"series": "1.2.840.1111111.5"}, [CORONAL]),
    ],
)
def test_each_series_is_a_scan_with_a_name_that_does_not_depend_on_the_choice(
    study: Path, asked: dict[str, str | None], found: list[str]
) -> None:
    with collect_notes() as notes:
        assert sorted(names(study, **asked)) == sorted(found)
    passed_over = asked == {"modality": asked.get("modality")} and bool(asked)
    assert ["--series all includes them" in note for note in notes] == [True] * passed_over


def test_a_folder_of_another_modality_only_is_not_passed_over(tmp_path: Path) -> None:
    add(tmp_path / "in" / "roe", "1.2.3", 1, modality="CT")
    assert names(tmp_path / "in" / "roe", modality="MR") == ["roe_seg.nii.gz"]


def test_one_file_for_several_series_is_an_error(study: Path, tmp_path: Path) -> None:
    with pytest.raises(TomosegError, match=r"5 scans cannot go into one file. .*--series: 1\.2\.840"):
        plan_cases([study], tmp_path / "x.nii.gz")
    (case,) = plan_cases([study], tmp_path / "x.nii.gz", series="T1*")
    assert case.output == tmp_path / "x.nii.gz"
    with pytest.raises(TomosegError, match=r"contains no series T3\*"):
        plan_cases([study], tmp_path / "x.nii.gz", series="T3*")


def test_a_second_series_leaves_the_first_result_alone(tmp_path: Path) -> None:
    for number in (1, 2):
        add(tmp_path / "in" / "doe", f"1.2.{number}", number, offset=number)
    segmenter = Segmenter.from_bundle(BUNDLE_NAME, device="cpu", backend="torch")
    first = segment_batch(segmenter, [tmp_path / "in" / "doe"], tmp_path / "out", series="1.2.1")
    content = (tmp_path / "out" / "doe_1_seg.nii.gz").read_bytes()
    second = segment_batch(segmenter, [tmp_path / "in" / "doe"], tmp_path / "out", series="1.2.2")
    assert [case.status for case in (*first.cases, *second.cases)] == ["done", "done"]
    assert (tmp_path / "out" / "doe_1_seg.nii.gz").read_bytes() == content
    again = segment_batch(segmenter, [tmp_path / "in" / "doe"], tmp_path / "out")
    assert [(case.status, case.series) for case in again.cases] == [("skipped", "1.2.1"), ("skipped", "1.2.2")]
    assert [case.study for case in again.cases] == ["phantom, 2026-01-02"] * 2
    add(tmp_path / "in" / "doe", "1.2.3", 3)  # another series in the folder changes nothing in these
    later = next(watch(segmenter, tmp_path / "in", tmp_path / "late", stable_for_s=0))
    assert sorted(case.status for case in later.cases) == ["done"] * 3
    once = segment_batch(segmenter, [tmp_path / "in" / "doe"], tmp_path / "out", options=OutputOptions())
    assert [case.status for case in once.cases] == ["skipped", "skipped", "done"]
    with pytest.raises(TomosegError, match="contains 3 series"):
        segmenter(tmp_path / "in" / "doe")


@pytest.mark.parametrize("key", ["AcquisitionNumber", "TriggerTime", "EchoTime", "DiffusionBValue"])
def test_a_phase_of_a_series_is_chosen_by_its_own_number(key: str, tmp_path: Path) -> None:
    for phase in (1, 2):
        elements: dict[str, Any] = {key: phase * 10}
        write_series(
            tmp_path / "in", ARRAY + np.int16(phase), GRID, uid="1.2.3", modality="MR",
            names=[f"{phase}_{k}" for k in range(GRID.shape[2])], **elements,
        )  # fmt: skip
    with pytest.raises(TomosegError, match=f"choose one with --phase {key}=10"):
        read_volume(tmp_path / "in")
    for phase in (1, 2):
        volume = read_volume(tmp_path / "in", phase=f"{key}={phase}0.0")
        np.testing.assert_array_equal(volume.array, ARRAY + phase)
    with pytest.raises(TomosegError, match=f"expected images with {key}=30, got none: {key} is 10.*, 20"):
        read_volume(tmp_path / "in", phase=f"{key}=30")
    with pytest.raises(TomosegError, match=f"expected images with first, got none: its images differ in .*{key}"):
        read_volume(tmp_path / "in", phase="first")
    (case,) = plan_cases([tmp_path / "in"], tmp_path / "out", phase=f"{key}=20")
    assert case.output.name == f"in_{key}_20_seg.nii.gz"
    assert case.source.hash("nifti") != plan_cases([tmp_path / "in"], tmp_path / "out")[0].source.hash("nifti")


def test_a_phase_is_chosen_by_segmenter_and_watch_as_by_segment(tmp_path: Path) -> None:
    for phase in (1, 2):
        write_series(
            tmp_path / "in" / "doe", ARRAY * np.int16(phase), GRID, uid="1.2.3", modality="MR",
            names=[f"{phase}_{k}" for k in range(GRID.shape[2])], AcquisitionNumber=phase,
        )  # fmt: skip
    segmenter = Segmenter.from_bundle(BUNDLE_NAME, device="cpu", backend="torch")
    with pytest.raises(TomosegError, match="choose one with --phase AcquisitionNumber"):
        segmenter(tmp_path / "in" / "doe")
    asked = "AcquisitionNumber=2"
    for number in (1, 2):
        prepared = segmenter.prepare(tmp_path / "in" / "doe", phase=f"AcquisitionNumber={number}")
        assert prepared.series is not None
        assert {frame.path.name[0] for frame in prepared.series.frames} == {str(number)}
    labels = segmenter(tmp_path / "in" / "doe", phase=asked).labels
    segment_batch(segmenter, [tmp_path / "in"], tmp_path / "out", phase=asked)
    (case,) = next(watch(segmenter, tmp_path / "in", tmp_path / "late", phase=asked, stable_for_s=0)).cases
    assert case.status == "done"
    name = "doe_AcquisitionNumber_2_seg.nii.gz"
    for folder in ("out", "late"):
        np.testing.assert_array_equal(read_volume(next((tmp_path / folder).rglob(name))).array, labels)


def test_the_frames_of_an_enhanced_image_have_phases_too(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "in" / "all.dcm", ARRAY[:, :, :8], Grid((40, 48, 8), GRID.affine), modality="MR")
    dataset = dcmread(path)
    for group in dataset.PerFrameFunctionalGroupsSequence:
        place = group.FrameContentSequence[0].InStackPositionNumber - 1
        group.FrameContentSequence[0].FrameAcquisitionNumber = 1 + place // 4
        group.PlanePositionSequence[0].ImagePositionPatient[2] = float(place % 4)
    dataset.save_as(path)
    with pytest.raises(TomosegError, match="choose one with --phase FrameAcquisitionNumber=1"):
        read_volume(path)
    for phase in (1, 2):
        volume = read_volume(path, phase=f"FrameAcquisitionNumber={phase}")
        np.testing.assert_array_equal(volume.array, ARRAY[:, :, 4 * phase - 4 : 4 * phase])


def test_the_command_line(tmp_path: Path) -> None:
    add(tmp_path / "doe", "1.2.1", 1)
    add(tmp_path / "doe", "1.2.2", 2, modality="CT")
    done = tomoseg("segment", "doe", "-o", "out", "-b", BUNDLE_NAME, "--device", "cpu", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["doe_1_seg.nii.gz"]
    assert "skipped, because they are no MR: 1.2.2 (CT" in done.stderr


def test_warnings_and_notes_of_a_series_are_in_the_report(tmp_path: Path) -> None:
    add(tmp_path / "in" / "doe", "1.2.1", 1)
    paths = sorted((tmp_path / "in" / "doe").iterdir(), key=lambda path: int(path.name.rpartition("_")[2]))
    for path in paths:
        dataset = dcmread(path)
        dataset.SpecificCharacterSet = "ISO_IR 192"
        if path == paths[0]:
            dataset.PixelSpacing = [0.5, 0.5]
        dataset.save_as(path)
        path.write_bytes(path.read_bytes().replace(b"Doe^Jane", b"Doe^J\xfen\xff"))
    paths[5].unlink()
    segmenter = Segmenter.from_bundle(BUNDLE_NAME, device="cpu", backend="torch", fill_gaps=True)
    (case,) = segment_batch(segmenter, [tmp_path / "in"], tmp_path / "out", output_type="rtstruct").cases
    assert case.status == "done"
    assert [warning[:23] for warning in case.warnings[:2]] == ["left out of the series:", "1 slice is missing, bet"]
    assert any("character set does not allow" in note for note in case.stats.notes)
    options = OutputOptions(anonymous=True)
    (hidden,) = segment_batch(segmenter, [tmp_path / "in"], tmp_path / "hidden", options=options).cases
    assert len(hidden.warnings) == len(case.warnings)
    assert "doe" not in str(hidden).lower()


def test_an_image_without_a_uid_is_an_error_before_the_network_runs(tmp_path: Path) -> None:
    add(tmp_path / "doe", "1.2.1", 1)
    path = next((tmp_path / "doe").iterdir())
    dataset = dcmread(path)
    del dataset.SOPInstanceUID
    dataset.save_as(path)
    windows: list[int] = []

    class Watched(Progress):
        def on_window(self, path: Path, done: int, total: int) -> None:
            windows.append(done)

    segmenter = Segmenter.from_bundle(BUNDLE_NAME, device="cpu", backend="torch")
    report = segment_batch(segmenter, [tmp_path / "doe"], tmp_path / "o", output_type="rtstruct", progress=Watched())
    assert report.cases[0].reason == f"{path}: has no SOPInstanceUID, to which a DICOM result refers; write NIfTI"
    assert windows == []
    assert segment_batch(segmenter, [tmp_path / "doe"], tmp_path / "nifti").failed == []

"""Many scans: one that is bad does not stop the rest, and each result is in the format that was asked for."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from support.command_line import run_inside
from support.progress import Calls
from tomoseg import ReportsError, Segmenter, TomosegError, segment_batch
from tomoseg.batch.options import OutputOptions
from tomoseg.report.records import CaseReport

PREVIEW = OutputOptions(preview=True)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_bundle("hippocampus")


@pytest.fixture
def scans(tmp_path: Path, real_scan: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    shutil.copy(real_scan, folder / "a good #1.nii.gz")
    (folder / "b_cut.nii.gz").write_bytes(real_scan.read_bytes()[:5000])
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 9, 4), "int16"), np.eye(4)), folder / "c_4d.nii.gz")
    shutil.copy(real_scan, folder / "d.nii.gz")
    return folder


def visible(folder: Path) -> list[str]:
    reports = {"report.html", "report.json", "statistics.csv"}
    return sorted({path.name for path in folder.iterdir() if not path.name.startswith(".")} - reports)


def test_results_below_a_dice_are_listed_worst_first(segmenter: Segmenter, scans: Path, tmp_path: Path) -> None:
    """The shipped bundle is calibrated: noise makes it less sure, and each value has a lower bound."""
    image = nib.load(scans / "d.nii.gz")
    noise = np.random.default_rng(0).normal(0, 3 * np.std(image.get_fdata()), image.shape)
    nib.save(nib.Nifti1Image((image.get_fdata() + noise).astype("float32"), image.affine), scans / "d.nii.gz")
    good = [scans / "a good #1.nii.gz", scans / "d.nii.gz"]
    report = segment_batch(segmenter, good, tmp_path / "out", options=OutputOptions(min_dice=1.0))
    for case in report.cases:
        for row in case.labels:
            assert row.expected_dice is not None
            assert row.expected_dice_low is not None
            assert 0 <= row.expected_dice_low < row.expected_dice < 1
    for clean, noisy in zip(report.cases[0].labels, report.cases[1].labels, strict=True):
        assert clean.expected_dice is not None
        assert noisy.expected_dice is not None
        assert clean.expected_dice > 0.8 > noisy.expected_dice
    with (tmp_path / "out" / "review.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    values = [float(row["expected_dice"]) for row in rows]
    assert len(values) == 4
    assert values == sorted(values)
    assert rows[0]["input"] == str(scans / "d.nii.gz")
    assert [row.name for _, row in report.doubtful(0.8)] == [row["name"] for row in rows[:2]]
    done = run_inside("segment", good[1], "-o", tmp_path / "one.nii.gz", "-b", "hippocampus", "--min-dice", "0.8")
    assert done.returncode == 1
    assert done.stderr.count("below --min-dice") == 2
    done = run_inside("segment", good[0], "-o", tmp_path / "two.nii.gz", "-b", "hippocampus", "--min-dice", "0.8")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "review.csv").read_text(encoding="utf-8").count("\n") == 1  # the names of its columns
    done = run_inside("segment", good[0], "-o", tmp_path / "two.nii.gz", "-b", "hippocampus", "--min-dice", "80")
    assert done.returncode == 2


def test_bad_scans_are_recorded_and_the_rest_are_done(segmenter: Segmenter, scans: Path, tmp_path: Path) -> None:
    seen: list[CaseReport] = []
    report = segment_batch(segmenter, [scans], tmp_path / "out", options=PREVIEW, progress=Calls(seen.append))
    assert tuple(seen) == report.cases
    assert [case.status for case in report.cases] == ["done", "failed", "failed", "done"]
    suffixes = ("ctbl", "label", "nii.gz", "png")
    assert visible(tmp_path / "out") == [f"{name}_seg.{suffix}" for name in ("a good #1", "d") for suffix in suffixes]
    assert "b_cut.nii.gz: truncated or damaged" in report.cases[1].reason
    assert "c_4d.nii.gz: expected one 3D volume, got 4D" in report.cases[2].reason

    report.save(tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["bundle"]["name"] == "hippocampus_mr_segmentation"
    assert len(written["bundle"]["checkpoint_sha256"]) == 64
    assert written["bundle"]["checkpoint"] == "models/model.pt"
    stages = {"reading", "preprocessing", "loading", "network", "blending", "restoring", "writing"}
    assert set(written["cases"][0]["stats"]["seconds"]) == stages
    assert written["cases"][0]["stats"]["peak_bytes"] > 1e8
    assert written["cases"][0]["stats"]["windows"] == 1
    assert written["cases"][1]["stats"]["peak_bytes"] == 0
    assert written["cases"][1]["output"] is None

    report.save_statistics(tmp_path / "statistics.csv")
    with (tmp_path / "statistics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["anterior", "posterior"] * 2
    labels = np.asanyarray(nib.load(tmp_path / "out" / "d_seg.nii.gz").dataobj)
    assert int(rows[3]["voxels"]) == (labels == 2).sum()
    assert float(rows[3]["volume_ml"]) == pytest.approx((labels == 2).sum() / 1000)


def test_results_are_not_overwritten_unless_asked(segmenter: Segmenter, real_scan: Path, tmp_path: Path) -> None:
    output = tmp_path / "seg.nii.gz"
    output.write_text("drawn by hand")
    report = segment_batch(segmenter, [real_scan], output)
    assert "seg.nii.gz: exists. Pass --overwrite" in report.cases[0].reason
    assert output.read_text() == "drawn by hand"
    assert not segment_batch(segmenter, [real_scan], output, options=OutputOptions(overwrite=True)).failed
    assert nib.load(output).shape == nib.load(real_scan).shape


def test_the_same_run_writes_the_same_bytes(segmenter: Segmenter, real_scan: Path, tmp_path: Path) -> None:
    for name in ("one.nii.gz", "other.nii.gz"):
        assert not segment_batch(segmenter, [real_scan], tmp_path / name).failed
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "other.nii.gz").read_bytes()


def test_no_link_below_the_output_folder_leads_out_of_it(segmenter: Segmenter, real_scan: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "scans" / name).mkdir(parents=True)
        shutil.copy(real_scan, tmp_path / "scans" / name / "scan.nii.gz")
    (tmp_path / "private").mkdir()
    (tmp_path / "really" / "inside").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "really")  # the folder itself may be a link
    (tmp_path / "out" / "a").symlink_to(tmp_path / "private")
    (tmp_path / "out" / "b").symlink_to(tmp_path / "out" / "inside")
    report = segment_batch(segmenter, [tmp_path / "scans"], tmp_path / "out", options=OutputOptions(overwrite=True))
    assert [case.status for case in report.cases] == ["failed", "done", "done"]
    assert report.cases[0].reason == f"{tmp_path / 'out' / 'a'}: a link leads out of {tmp_path / 'out'}. Remove it."
    assert list((tmp_path / "private").iterdir()) == []


def test_a_folder_that_cannot_be_written_fails_the_case(segmenter: Segmenter, real_scan: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(ReportsError, match=r"report\.json: cannot be written") as unsaved:
        segment_batch(segmenter, [real_scan], tmp_path / "out" / "below")
    assert "cannot be written" in unsaved.value.report.cases[0].reason


def test_a_dicom_series_gives_what_its_nifti_gives(segmenter: Segmenter, dicom_scan: Path, tmp_path: Path) -> None:
    nifti = dicom_scan.with_name("mni.nii.gz")
    report = segment_batch(segmenter, [dicom_scan, nifti], tmp_path / "out", options=PREVIEW)
    assert [case.status for case in report.cases] == ["done", "done"], report.cases
    assert report.cases[0].series is not None
    by_dicom, by_nifti = (nib.load(str(case.output)) for case in report.cases)
    np.testing.assert_array_equal(np.asanyarray(by_dicom.dataobj), np.asanyarray(by_nifti.dataobj))
    np.testing.assert_allclose(by_dicom.affine, by_nifti.affine, atol=1e-4)
    assert (by_dicom.header["qform_code"], by_dicom.header["sform_code"]) == (1, 1)
    assert by_dicom.header.get_xyzt_units()[0] == "mm"
    assert (tmp_path / "out" / "mni_dicom_seg.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("output_type", "name"),
    [
        ("nrrd", "mni_dicom.seg.nrrd"),
        ("dicom-seg", "mni_dicom_seg.dcm"),
        ("dicom-labelmap", "mni_dicom_labelmap.dcm"),
        ("rtstruct", "mni_dicom_rtstruct.dcm"),
    ],
)
def test_other_formats_hold_the_same_labels(
    segmenter: Segmenter, dicom_scan: Path, tmp_path: Path, output_type: str, name: str
) -> None:
    report = segment_batch(segmenter, [dicom_scan], tmp_path / "out", output_type=output_type)
    assert not report.failed, report.failed
    assert report.options["output_type"] == [output_type]
    assert visible(tmp_path / "out") == [name]
    written = tmp_path / "out" / name
    counted = {row.name: row.voxels for row in report.cases[0].labels}
    if output_type == "nrrd":
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(written)))
        assert counted == {"anterior": (array == 1).sum(), "posterior": (array == 2).sum()}
        return
    dataset = pydicom.dcmread(written)
    source = pydicom.dcmread(next(dicom_scan.iterdir()))
    assert dataset.PatientID == source.PatientID
    assert dataset.StudyInstanceUID == source.StudyInstanceUID
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
    if output_type == "rtstruct":
        assert [roi.ROIName for roi in dataset.StructureSetROISequence] == list(counted)
        return
    assert [
        (one.SegmentLabel, one.SegmentedPropertyTypeCodeSequence[0].CodeMeaning) for one in dataset.SegmentSequence
    ][-2:] == [("anterior", "Hippocampus"), ("posterior", "Hippocampus")]
    pixels = dataset.pixel_array
    voxels = (pixels > 0).sum() if output_type == "dicom-labelmap" else pixels.sum()
    assert voxels == sum(counted.values())


def test_a_report_comes_with_its_segmentation(segmenter: Segmenter, dicom_scan: Path, tmp_path: Path) -> None:
    def segment() -> str:
        (case,) = segment_batch(segmenter, [dicom_scan], tmp_path / "out", output_type="dicom-sr").cases
        return case.status

    assert segment() == "done"
    report, seg = tmp_path / "out" / "mni_dicom_sr.dcm", tmp_path / "out" / "mni_dicom_seg.dcm"
    assert visible(tmp_path / "out") == [seg.name, report.name]
    uid = pydicom.dcmread(report).SOPInstanceUID
    assert segment() == "skipped"
    seg.unlink()
    assert segment() == "done"
    assert pydicom.dcmread(report).SOPInstanceUID == uid
    (study,) = pydicom.dcmread(report).CurrentRequestedProcedureEvidenceSequence
    referred = [one.ReferencedSOPInstanceUID for series in study.ReferencedSeriesSequence for one in series[0x00081199]]
    assert pydicom.dcmread(seg).SOPInstanceUID in referred


def test_a_format_that_refers_to_dicom_needs_dicom(segmenter: Segmenter, real_scan: Path, tmp_path: Path) -> None:
    report = segment_batch(segmenter, [real_scan], tmp_path / "seg.dcm")
    assert "mni_left.nii.gz: expected a DICOM series: dicom-seg refers to one" in report.cases[0].reason
    result = segmenter(nib.load(real_scan))
    with pytest.raises(TomosegError, match=r"seg\.dcm: expected a scan read from DICOM"):
        result.save(tmp_path / "seg.dcm")
    with pytest.raises(TomosegError, match=r"expected a name that ends in \.dcm for rtstruct"):
        result.save(tmp_path / "seg.nii.gz", "rtstruct")
    assert not list(tmp_path.iterdir())


def test_what_was_cleaned_is_reported(real_scan: Path, tmp_path: Path) -> None:
    image = nib.load(real_scan)
    array = image.get_fdata(dtype="float32")
    array[0, 0, :5] = np.nan
    nib.save(nib.Nifti1Image(array, image.affine), tmp_path / "nan.nii.gz")
    plain = Segmenter.from_bundle("hippocampus")
    report = segment_batch(plain, [tmp_path / "nan.nii.gz"], tmp_path / "out")
    assert "NaN or infinity in 5 of" in report.cases[0].reason
    assert "--clean non-finite" in report.cases[0].reason

    cleaning = Segmenter.from_bundle("hippocampus", clean=("non-finite", "bias-field"))
    (case,) = segment_batch(cleaning, [tmp_path / "nan.nii.gz"], tmp_path / "out", options=PREVIEW).cases
    assert case.status == "done", case.reason
    assert "5 NaN replaced by" in case.stats.notes[0]
    assert "N4" in case.stats.notes[1]
    assert case.stats.seconds["cleaning"] > 0
    assert (tmp_path / "out" / "nan_seg.png").exists()
    nib.save(nib.Nifti1Image(np.full_like(array, np.nan), image.affine), tmp_path / "all.nii")
    (case,) = segment_batch(cleaning, [tmp_path / "all.nii"], tmp_path / "out").cases
    assert case.reason == f"{tmp_path / 'all.nii'}: expected a scan, got nothing but NaN and infinite values"
    with pytest.raises(TomosegError, match="clean: expected some of non-finite, denoise"):
        Segmenter.from_bundle("hippocampus", clean=("sharpen",))

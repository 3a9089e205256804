"""A file for each label beside the label map: named as the label, proven by the manifest, and no label map itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from support.command_line import run_inside
from support.evaluations import write_cases
from support.thresholds import SPACING, threshold_bundle
from tomoseg import OutputOptions, Segmenter, evaluate, segment_batch

SPLIT = OutputOptions(split=True)
NAMES = ["left_parotid.nii.gz", "Mandible.nii.gz", "right_parotid.nii.gz"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hounsfield = {"Mandible": 0.0, "left parotid": 300.0, "right parotid": 600.0}
    return threshold_bundle(tmp_path_factory.mktemp("bundle") / "organs", hounsfield)


@pytest.fixture(scope="module")
def segmenter(bundle: Path) -> Segmenter:
    return Segmenter.from_bundle(bundle, device="cpu", backend="torch")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    path = tmp_path / "scans" / "sub" / "ct.nii.gz"
    path.parent.mkdir(parents=True)
    values = np.repeat(np.array([-900, 100, 400, 400], np.float32), 8).reshape(32, 1, 1)  # no right parotid
    nib.save(nib.Nifti1Image(np.broadcast_to(values, (32, 24, 24)).copy(), np.diag([*SPACING, 1.0])), path)
    return tmp_path / "scans"


def masks(out: Path) -> Path:
    return out / "sub" / "ct_seg_labels"


def names(folder: Path) -> list[str]:
    return sorted((path.name for path in folder.iterdir()), key=str.lower)


def status(segmenter: Segmenter, scans: Path, out: Path, options: OutputOptions = SPLIT) -> str:
    (case,) = segment_batch(segmenter, [scans], out, options=options).cases
    return case.reason or case.status


def test_masks_are_the_labels_and_are_named_as_they(segmenter: Segmenter, scans: Path, tmp_path: Path) -> None:
    assert status(segmenter, scans, tmp_path / "out") == "done"
    whole = nib.load(tmp_path / "out" / "sub" / "ct_seg.nii.gz")
    assert names(masks(tmp_path / "out")) == NAMES
    for value, name in ((1, "Mandible"), (2, "left_parotid"), (3, "right_parotid")):
        mask = nib.load(masks(tmp_path / "out") / f"{name}.nii.gz")
        np.testing.assert_array_equal(mask.get_fdata(), whole.get_fdata() == value)
        np.testing.assert_array_equal(mask.affine, whole.affine)
        assert mask.get_data_dtype() == np.uint8


def test_a_second_run_makes_what_is_missing_and_replaces_nothing_else(
    segmenter: Segmenter, scans: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert status(segmenter, scans, out, OutputOptions()) == "done"
    assert not masks(out).exists()
    assert status(segmenter, scans, out) == "done"
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    assert status(segmenter, scans, out) == "skipped"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")} == times
    (masks(out) / "Mandible.nii.gz").unlink()
    assert status(segmenter, scans, out) == "done"
    (masks(out) / "Mandible.nii.gz").write_bytes(b"corrected by hand")
    assert "Mandible.nii.gz: exists. Pass --overwrite to replace it" in status(segmenter, scans, out)
    assert status(segmenter, scans, out, OutputOptions(split=True, overwrite=True)) == "done"
    assert nib.load(masks(out) / "Mandible.nii.gz").get_fdata().any()


def test_masks_of_labels_that_are_no_more_asked_for_go_and_files_of_others_stay(
    segmenter: Segmenter, bundle: Path, scans: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    status(segmenter, scans, out)
    shutil.copy(masks(out) / "Mandible.nii.gz", masks(out) / "mine.nii.gz")
    fewer = Segmenter.from_bundle(bundle, device="cpu", backend="torch", labels=("*parotid",))
    assert status(fewer, scans, out, OutputOptions(split=True, overwrite=True)) == "done"
    assert names(masks(out)) == ["left_parotid.nii.gz", "mine.nii.gz", "right_parotid.nii.gz"]


def test_files_of_another_program_are_kept(segmenter: Segmenter, scans: Path, tmp_path: Path) -> None:
    masks(tmp_path / "out").mkdir(parents=True)
    (masks(tmp_path / "out") / "Mandible.nii.gz").write_bytes(b"of another program")
    assert "Mandible.nii.gz: exists" in status(segmenter, scans, tmp_path / "out")
    (tmp_path / "linked" / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    masks(tmp_path / "linked").symlink_to(tmp_path / "elsewhere")
    assert "a link leads out of" in status(segmenter, scans, tmp_path / "linked")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_statistics_only_writes_the_same_statistics_and_no_labels(
    segmenter: Segmenter, bundle: Path, scans: Path, tmp_path: Path
) -> None:
    only = OutputOptions(statistics_only=True)
    status(segmenter, scans, tmp_path / "out", OutputOptions())
    for expected in ("done", "skipped"):
        (case,) = segment_batch(segmenter, [scans], tmp_path / "only", options=only).cases
        assert (case.status, case.output) == (expected, None)
        assert sorted(path.name for path in (tmp_path / "only").rglob("*") if path.is_file()) == [
            ".ct_seg.nii.gz.done.json", "report.html", "report.json", "statistics.csv"
        ]  # fmt: skip
        assert (tmp_path / "only" / "statistics.csv").read_text() == (tmp_path / "out" / "statistics.csv").read_text()
    assert status(segmenter, scans, tmp_path / "out", only) == "skipped"
    assert status(segmenter, scans, tmp_path / "only", OutputOptions()) == "done"
    fewer = Segmenter.from_bundle(bundle, device="cpu", backend="torch", labels=("*parotid",))
    assert "ct_seg.nii.gz: exists" in status(fewer, scans, tmp_path / "out", only)
    command = ["segment", scans, "-b", bundle, "--trust", "--device", "cpu", "--statistics-only", "-o"]
    for further, told in (([tmp_path / "one.nii.gz"], "Give a folder"), ([tmp_path / "x", "--split"], "Leave out")):
        done = run_inside(*command, *further)
        assert done.returncode == 2
        assert told in done.stderr
    done = run_inside(*command, tmp_path / "shown")
    assert "ct.nii.gz: Mandible " in done.stdout


def test_one_file_has_its_masks_beside_it(bundle: Path, scans: Path, tmp_path: Path) -> None:
    command = ["segment", scans / "sub" / "ct.nii.gz", "-b", bundle, "--trust", "--device", "cpu", "--split"]
    done = run_inside(*command, "-o", tmp_path / "new" / "organs.nii.gz")
    assert done.returncode == 0, done.stderr
    assert names(tmp_path / "new" / "organs_labels") == NAMES
    again = run_inside(*command, "-o", tmp_path / "new" / "organs.nii.gz")
    assert again.returncode == 1
    assert "exists. Pass --overwrite" in again.stderr


def test_an_evaluation_takes_masks_for_no_label_maps(tmp_path: Path) -> None:
    predictions, references = write_cases(tmp_path, 4)
    before = evaluate(predictions, references)
    first = sorted(predictions.glob("*.nii.gz"))[0]
    folder = first.with_name(f"{first.name.removesuffix('.nii.gz')}_labels")
    folder.mkdir()
    shutil.copy(first, folder / "case_9.nii.gz")
    assert [case.name for case in evaluate(predictions, references).cases] == [case.name for case in before.cases]
    assert evaluate(predictions, references).notes == before.notes

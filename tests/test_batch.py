"""Many scans: which file is written where, and one bad scan does not stop the rest."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tomoseg import Segmenter, TomosegError, segment_batch
from tomoseg.batch import Case, plan_cases


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def outputs(cases: list[Case], folder: Path) -> list[str]:
    return [case.output.relative_to(folder).as_posix() for case in cases]


def test_one_scan_goes_into_the_named_file(tmp_path: Path) -> None:
    scan, *_ = touch(tmp_path, "scan.nii")
    assert plan_cases([scan], tmp_path / "x.nii.gz") == [Case(scan, tmp_path / "x.nii.gz")]


def test_a_folder_keeps_its_tree(tmp_path: Path) -> None:
    touch(tmp_path / "in", "b.nii", "one/a.nii.gz", "two/a.nii.gz", "one/notes.txt")
    cases = plan_cases([tmp_path / "in"], tmp_path / "out")
    assert outputs(cases, tmp_path / "out") == ["b_seg.nii.gz", "one/a_seg.nii.gz", "two/a_seg.nii.gz"]


def test_several_inputs_keep_what_tells_them_apart(tmp_path: Path) -> None:
    scans = touch(tmp_path / "in", "one/a.nii.gz", "two/a.nii.gz", "two/b.nii")
    wanted = ["one/a_seg.nii.gz", "two/a_seg.nii.gz", "two/b_seg.nii.gz"]
    for given in (scans, [tmp_path / "in/one", tmp_path / "in/two"], [str(tmp_path / "in/*/*.nii*")]):
        assert outputs(plan_cases(given, tmp_path / "out"), tmp_path / "out") == wanted
    assert outputs(plan_cases(scans[1:], tmp_path / "out"), tmp_path / "out") == ["a_seg.nii.gz", "b_seg.nii.gz"]


def test_a_scan_named_twice_is_segmented_once(tmp_path: Path) -> None:
    scan, *_ = touch(tmp_path / "in", "a.nii")
    assert len(plan_cases([scan, scan], tmp_path / "out")) == 1


def test_a_name_with_a_bracket_is_no_pattern(tmp_path: Path) -> None:
    scan, *_ = touch(tmp_path / "in", "a[1].nii")
    assert plan_cases([scan], tmp_path / "out")[0].input == scan


def test_results_of_an_earlier_run_are_no_scans(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "out/a_seg.nii.gz")
    assert len(plan_cases([tmp_path], tmp_path / "out")) == 1


def test_wrong_calls_are_told(tmp_path: Path) -> None:
    a, b, packed = touch(tmp_path / "in", "a.nii", "b.nii", "a.nii.gz")
    (tmp_path / "empty").mkdir()
    for inputs, output, message in [
        ([a, b], tmp_path / "x.nii.gz", "2 scans cannot go into one file"),
        ([tmp_path / "empty"], tmp_path / "out", "no NIfTI file"),
        ([tmp_path / "in"], tmp_path / "in", "the output folder is the input folder"),
        ([a, packed], tmp_path / "out", r"a_seg.nii.gz: both .*a.nii and .*a.nii.gz would be written there"),
        ([a], a, "is an input, too"),
    ]:
        with pytest.raises(TomosegError, match=message):
            plan_cases(inputs, output)


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


def test_bad_scans_are_recorded_and_the_rest_are_done(segmenter: Segmenter, scans: Path, tmp_path: Path) -> None:
    seen = []
    report = segment_batch(segmenter, [scans], tmp_path / "out", preview=True, on_case=lambda case: seen.append(case))
    assert seen == report.cases
    assert [case.status for case in report.cases] == ["done", "failed", "failed", "done"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a good #1_seg.nii.gz",
        "a good #1_seg.png",
        "d_seg.nii.gz",
        "d_seg.png",
    ]
    assert "b_cut.nii.gz: truncated or damaged" in report.cases[1].reason
    assert "c_4d.nii.gz: expected one 3D volume, got 4D" in report.cases[2].reason

    report.save(tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["bundle"]["name"] == "hippocampus_mr_segmentation"
    assert len(written["bundle"]["checkpoint_sha256"]) == 64
    stages = {"reading", "preprocessing", "loading", "network", "blending", "restoring", "writing"}
    assert set(written["cases"][0]["seconds"]) == stages
    assert written["cases"][0]["memory"]["peak_bytes"] > 1e8
    assert written["cases"][0]["windows"] == 1
    assert written["cases"][1]["memory"] is None
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
    assert "seg.nii.gz: is there already; pass --overwrite" in report.cases[0].reason
    assert output.read_text() == "drawn by hand"
    assert not segment_batch(segmenter, [real_scan], output, overwrite=True).failed
    assert nib.load(output).shape == nib.load(real_scan).shape


def test_the_same_run_writes_the_same_bytes(segmenter: Segmenter, real_scan: Path, tmp_path: Path) -> None:
    for name in ("one.nii.gz", "other.nii.gz"):
        assert not segment_batch(segmenter, [real_scan], tmp_path / name).failed
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "other.nii.gz").read_bytes()


def test_a_folder_that_cannot_be_written_fails_the_case(segmenter: Segmenter, real_scan: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    report = segment_batch(segmenter, [real_scan], tmp_path / "out" / "below")
    assert "cannot be written" in report.cases[0].reason

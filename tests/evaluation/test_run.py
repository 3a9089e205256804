"""`tomoseg evaluate` as a user meets it, and real predictions against MONAI's metrics."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_confusion_matrix_metric,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    compute_surface_dice,
    get_confusion_matrix,
)

from support.bundles import BUNDLE_NAME, ENVIRONMENT, SHARED
from support.dicoms import write_series
from support.evaluations import read_csv, run, write, write_cases
from tomoseg import Grid, Segmenter, segment_batch
from tomoseg.evaluation.options import EvaluationOptions
from tomoseg.evaluation.run import evaluate, save_evaluation

OVERLAPS = {"precision": "precision", "recall": "sensitivity", "accuracy": "accuracy"}
Folders = tuple[Path, Path]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_bundle(BUNDLE_NAME, device="cpu", backend="torch")


@pytest.fixture(scope="module")
def real(segmenter: Segmenter, real_scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The bundle's labels of a real scan, and beside them those of mirrored and averaged scores for a reference."""
    folder = tmp_path_factory.mktemp("real")
    segment_batch(segmenter, [real_scan], folder / "predictions" / "mni_seg.nii.gz")
    mirrored = Segmenter.from_bundle(BUNDLE_NAME, device="cpu", backend="torch", tta=True)
    segment_batch(mirrored, [real_scan], folder / "references" / "mni.nii.gz")
    return folder / "predictions", folder / "references"


@pytest.fixture(scope="module")
def trained(segmenter: Segmenter, hippocampus_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The bundle's labels of four labelled scans."""
    folder = tmp_path_factory.mktemp("predictions")
    scans = sorted((hippocampus_data / "imagesTr").glob("*.nii.gz"))[:4]
    segment_batch(segmenter, scans, folder)
    return folder, hippocampus_data


@pytest.mark.parametrize("which", ["real", "trained"])
def test_real_predictions_score_what_monai_says(which: str, request: pytest.FixtureRequest) -> None:
    """Overlap to 1e-6 and surfaces to 1e-3 mm, as MONAI computes them from one-hot volumes."""
    predictions, references = request.getfixturevalue(which)
    found = evaluate(predictions, references, EvaluationOptions({1: "anterior", 2: "posterior"}, only_predicted=True))
    assert not found.failed
    differ = 0
    for case in found.done:
        assert case.prediction is not None
        assert case.reference is not None
        images = [nib.load(path) for path in (case.prediction, case.reference)]
        maps = [torch.from_numpy(np.asarray(image.dataobj).astype(np.uint8)) for image in images]
        ours, theirs = (torch.stack([labels == value for value in (1, 2)])[None] for labels in maps)
        confusion = get_confusion_matrix(ours.float(), theirs.float(), include_background=True)
        how = {"include_background": True, "spacing": tuple(map(float, images[1].header.get_zooms()))}
        wanted = {
            "dice": compute_dice(ours, theirs, include_background=True)[0],
            "jaccard": compute_iou(ours, theirs, include_background=True)[0],
            **{name: compute_confusion_matrix_metric(known, confusion)[0] for name, known in OVERLAPS.items()},
        }
        surfaces = {
            "hd95_mm": compute_hausdorff_distance(ours, theirs, percentile=95, **how)[0],
            "assd_mm": compute_average_surface_distance(ours, theirs, symmetric=True, **how)[0],
            "nsd": compute_surface_dice(ours, theirs, class_thresholds=[1.0, 1.0], **how)[0],
        }
        for index, one in enumerate(case.labels):
            for name, values in wanted.items():
                assert getattr(one.overlap, name) == pytest.approx(float(values[index]), abs=1e-6), name
            for name, values in surfaces.items():
                assert getattr(one.surface, name) == pytest.approx(float(values[index]), abs=1e-3), name
            differ += one.overlap.predicted_only + one.overlap.reference_only
    assert differ > 0


def test_a_folder_with_a_bad_case_is_scored_and_the_bad_one_reported(tmp_path: Path) -> None:
    predictions, references = write_cases(tmp_path)
    out = tmp_path / "new" / "out"
    done = run(
        predictions, references, "-o", out, "--labels", "1=liver,2=spleen", "--tolerance", "liver=2mm", "--worst", 0
    )
    assert done.returncode == 1, done.stderr
    (complaint,) = done.stderr.splitlines()
    assert complaint.startswith(f"tomoseg: error: {predictions / 'damaged_seg.nii.gz'}: expected a NIfTI volume")
    assert "7 of 8 cases" in done.stdout
    assert "liver" in done.stdout
    rows = read_csv(out / "metrics.csv")
    assert len(rows) == 14
    assert json.loads((out / "evaluation.json").read_text())["labels"][0]["tolerance_mm"] == 2


def test_missing_partners_are_failures_unless_said_otherwise(tmp_path: Path) -> None:
    predictions, references = write_cases(tmp_path, 3)
    (predictions / "case_0_seg.nii.gz").unlink()
    shutil.copy(predictions / "missed_seg.nii.gz", predictions / "stray_seg.nii.gz")
    done = run(predictions, references, "-o", tmp_path / "out", "--quiet", "--worst", 0)
    assert (done.returncode, done.stdout) == (1, "")
    reported = sorted(line.removeprefix("tomoseg: error: ") for line in done.stderr.splitlines())
    assert reported == [
        f"{predictions / 'stray_seg.nii.gz'}: expected a reference in {references}, got none",
        f"{references / 'case_0.nii.gz'}: expected a prediction in {predictions}, got none; "
        "--only-predicted leaves such cases out",
    ]
    (predictions / "stray_seg.nii.gz").unlink()
    done = run(predictions, references, "-o", tmp_path / "out", "--only-predicted", "--worst", 0)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["counts"]["left_out"] == 1


def test_two_files_and_the_labels_of_a_bundle(real: Folders, tmp_path: Path) -> None:
    done = run(real[0] / "mni_seg.nii.gz", real[1] / "mni.nii.gz", "-o", tmp_path / "out", "-b", "hippo", "--worst", 1)
    assert done.returncode == 0, done.stderr
    assert [row["name"] for row in read_csv(tmp_path / "out" / "metrics.csv")] == ["anterior", "posterior"]
    assert (tmp_path / "out" / "evaluation.html").read_text().count("data:image/jpeg") == 1


def test_other_formats_score_the_same(segmenter: Segmenter, real: Folders, dicom_scan: Path, tmp_path: Path) -> None:
    """.seg.nrrd and DICOM-SEG of a DICOM series against NIfTI in another orientation."""
    result = segmenter(dicom_scan)
    result.save(tmp_path / "nifti" / "x_seg.nii.gz")
    result.save(tmp_path / "nrrd" / "x.seg.nrrd")
    result.save(tmp_path / "dicom" / "x_seg.dcm")
    expected = EvaluationOptions(result.names)
    reference = tmp_path / "references" / "x.nii.gz"
    reference.parent.mkdir()
    rolled = np.roll(result.labels, 1, axis=0)
    nib.save(nib.Nifti1Image(rolled, result.grid.affine), reference)
    wanted = evaluate(tmp_path / "nifti", reference.parent, expected).done[0].labels
    assert wanted[0].overlap.dice < 1
    for name in ("nrrd", "dicom"):
        (case,) = evaluate(tmp_path / name, reference.parent, expected).done
        assert case.labels == wanted, name
    nib.save(nib.Nifti1Image(rolled, result.grid.affine).as_reoriented([[0, -1], [1, 1], [2, 1]]), reference)
    (case,) = evaluate(tmp_path / "dicom", reference.parent, expected).cases
    assert case.status == "done", case.reason
    assert [one.overlap for one in case.labels] == [one.overlap for one in wanted]
    (case,) = evaluate(tmp_path / "nifti", reference.parent, expected).cases
    assert "expected the grid of its reference, got one (RAS and LAS) whose voxels lie up to 39 mm off" in case.reason


def test_labels_without_names_have_a_row_in_every_case(tmp_path: Path) -> None:
    """So that the table, the plots and the summary are of the same numbers."""
    predictions, references = write_cases(tmp_path)
    label = np.zeros((30, 24, 16), np.uint8)
    label[:3] = 7
    write(references / "case_0.nii.gz", label)
    found = evaluate(predictions, references, EvaluationOptions(ignore=1))
    save_evaluation(found, tmp_path / "out", worst=0)
    rows = read_csv(tmp_path / "out" / "metrics.csv")
    assert [one.label for one in found.summaries] == [2, 7, 0]  # the ignored value is no label
    for summary in found.summaries[:2]:
        errors = [float(row["volume_error_ml"]) for row in rows if int(row["label"]) == summary.label]
        assert len(errors) == len(found.done) == summary.metrics["volume_error_ml"].cases
        assert np.mean(errors) == pytest.approx(summary.metrics["volume_error_ml"].mean.value)


def test_a_name_is_the_same_however_a_file_system_spells_it(tmp_path: Path) -> None:
    label = np.ones((8, 8, 8), np.uint8)
    write(tmp_path / "p" / "Mu\u0308ller.nii.gz", label)
    write(tmp_path / "r" / "M\u00fcller.nii.gz", label)
    assert [case.name for case in evaluate(tmp_path / "p", tmp_path / "r").done] == ["M\u00fcller"]


def test_a_reference_has_a_grid_of_its_own(segmenter: Segmenter, dicom_scan: Path, tmp_path: Path) -> None:
    result = segmenter(dicom_scan)
    result.save(tmp_path / "x_seg.dcm")
    result.save(tmp_path / "x_seg.nii.gz")
    (case,) = evaluate(tmp_path / "x_seg.nii.gz", tmp_path / "x_seg.dcm").cases
    assert "a reference has to be a volume with a grid of its own" in case.reason


def test_partly_annotated_references_are_scored_where_they_are_annotated(tmp_path: Path) -> None:
    """A dataset of the Decathlon's layout."""
    predictions, references = write_cases(tmp_path, 3)
    root = tmp_path / "dataset"
    shutil.copytree(references, root / "labelsTr")
    shutil.copytree(tmp_path / "scans", root / "imagesTr")
    pairs = [
        {"image": f"imagesTr/{name}_0000.nii.gz", "label": f"labelsTr/{name}.nii.gz"}
        for name in ("case_0", "missed", "invented")
    ]
    pairs[1]["annotated"] = ["spleen"]  # type: ignore[assignment]
    content = {"labels": {"background": 0, "liver": 1, "spleen": 2}, "training": pairs}
    (root / "dataset.json").write_text(json.dumps(content))
    found = evaluate(predictions, root)
    assert {case.name: [one.label for one in case.labels] for case in found.done} == {
        "case_0": [1, 2], "invented": [1, 2], "missed": [2],
    }  # fmt: skip
    assert found.summaries[0].presence.reference_only == 0  # labels missing there were never drawn
    assert all(case.image is not None for case in found.done)


def test_head_and_neck_organs_that_were_not_contoured_are_left_out(tmp_path: Path) -> None:
    root = SHARED / "HeadNeck_CT"
    if not root.is_dir():
        pytest.skip(f"HeadNeck_CT is not at {root}; it is no part of the project")
    listed = json.loads((root / "dataset.json").read_text())["validation"]
    partly = next(case for case in listed if len(case["annotated"]) == 4)
    (tmp_path / "predictions").mkdir()
    shutil.copy(root / partly["label"], tmp_path / "predictions")
    found = evaluate(
        tmp_path / "predictions", root, EvaluationOptions(within_slices=("spinal_cord",), only_predicted=True)
    )
    (case,) = found.done
    assert [found.config.name(one.label) for one in case.labels] == partly["annotated"]
    assert {one.overlap.dice for one in case.labels} == {1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none", "references"], "none: no such file or folder; expected label maps"),
        (["predictions", "references", "--labels", "liver"], "labels: expected 1=NAME,2=NAME or a JSON file"),
        (["predictions", "references", "-b", "liver"], "bundle 'liver': no such name or folder"),
        (["predictions", "references", "--images", "nowhere"], "nowhere: expected scans, got no NIfTI"),
        (["predictions"], "Missing argument 'REFERENCES'"),
    ],
)
def test_wrong_usage_is_reported_in_a_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    write_cases(tmp_path, 4)
    done = run(*arguments, "-o", "out", cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stderr
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_results_is_kept(tmp_path: Path) -> None:
    predictions, references = write_cases(tmp_path, 1)
    (tmp_path / "taken").write_text("mine")
    done = run(predictions, references, "-o", tmp_path / "taken")
    assert (done.returncode, (tmp_path / "taken").read_text()) == (2, "mine")
    assert "expected a folder for the results, got a file" in done.stderr


def test_threads_change_nothing(tmp_path: Path) -> None:
    predictions, references = write_cases(tmp_path, 12)
    one, three = (evaluate(predictions, references, EvaluationOptions(threads=threads)) for threads in (1, 3))
    assert [str(case.labels) for case in one.cases] == [str(case.labels) for case in three.cases]
    assert str(one.summaries) == str(three.summaries)


def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path) -> None:
    predictions, references = write_cases(tmp_path, 2)
    (predictions / "case_0_seg.nii.gz").unlink()
    os.mkfifo(predictions / "case_0_seg.nii")  # neither file nor folder: it fails, and does not wait for ever
    command = [sys.executable, "-m", "tomoseg", "evaluate", predictions, references, "-o", tmp_path / "out"]
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    for line in _lines(process):
        if "neither file nor folder" in line:
            process.send_signal(signal.SIGINT)
            break
    process.communicate(timeout=60)
    assert process.returncode in (1, 130)
    written = list((tmp_path / "out").iterdir()) if (tmp_path / "out").exists() else []
    assert [path for path in written if path.name.startswith(".")] == []


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stderr is not None
    yield from process.stderr


def test_help_comes_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['tomoseg', 'evaluate', '--help']\n"
        "from tomoseg.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'monai', 'scipy.ndimage', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--within-slices" in done.stdout


def test_a_series_is_no_label_map(tmp_path: Path) -> None:
    """A folder of slices beside references holds no prediction, and says so."""
    write_series(tmp_path / "predictions", np.zeros((5, 5, 5), np.int16), Grid((5, 5, 5), np.eye(4)))
    _, references = write_cases(tmp_path / "other", 1)
    done = run(tmp_path / "predictions", references, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "contains no label map" in done.stderr

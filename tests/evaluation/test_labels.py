"""Which label of a prediction is which of its reference: by value or by name, and never by chance."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom import dcmread

from support.bundles import BUNDLE_NAME
from support.dicom_results import label_map
from support.evaluations import read_csv, run, write, write_cases
from support.one_layer import INVERT
from support.one_layer import write as write_layer
from support.trainings import write_dataset
from tomoseg import Segmenter
from tomoseg.data.dicom.rtstruct import write_rtstruct
from tomoseg.data.dicom.seg_writer import write_dicom_seg
from tomoseg.data.labels import Label
from tomoseg.data.masks import ROUNDED
from tomoseg.data.nrrd_segmentation import write_nrrd_segmentation
from tomoseg.evaluation.options import EvaluationOptions
from tomoseg.evaluation.run import evaluate
from tomoseg.planning.bundle_writer import plan
from tomoseg.planning.options import PlanningOptions


def test_segments_have_the_labels_of_their_names(dicom_scan: Path, tmp_path: Path) -> None:
    """Other numbers, other spellings, and one label more."""
    result = Segmenter.from_bundle(BUNDLE_NAME, device="cpu", backend="torch")(dicom_scan)
    nib.save(nib.Nifti1Image(result.labels, result.grid.affine), tmp_path / "reference.nii.gz")
    shifted = np.where(result.labels > 0, result.labels + 1, 0).astype(np.uint8)
    shifted[:2] = 1
    table = [Label(1, "lesion", (9, 9, 9)), Label(2, "Anterior", (1, 1, 1)), Label(3, "POSTERIOR", (2, 2, 2))]
    write_nrrd_segmentation(tmp_path / "x.seg.nrrd", shifted, result.grid, table)
    assert result.series is not None
    write_dicom_seg(tmp_path / "x.dcm", label_map(shifted, result.series, table, "by hand", "1"), False)
    for path in (tmp_path / "x.seg.nrrd", tmp_path / "x.dcm"):
        (case,) = evaluate(path, tmp_path / "reference.nii.gz", EvaluationOptions({1: "anterior", 2: "posterior"})).done
        assert [one.overlap.dice for one in case.labels] == [1, 1], path
        assert "which no label has" in case.notes[-1]
        (case,) = evaluate(path, tmp_path / "reference.nii.gz", EvaluationOptions({1: "a", 2: "b"})).done
        assert case.labels[1].overlap.dice == 0  # no name is known, so that values count


def test_names_in_other_writing_systems_survive_every_format(dicom_scan: Path, tmp_path: Path) -> None:
    result = Segmenter.from_bundle(BUNDLE_NAME, device="cpu", backend="torch")(dicom_scan)
    nib.save(nib.Nifti1Image(result.labels, result.grid.affine), tmp_path / "reference.nii.gz")
    swapped = np.where(result.labels > 0, 3 - result.labels, 0).astype(np.uint8)
    assert result.series is not None
    for one, other in (("GTV+", "GTV-"), ("海马前部", "海马后部")):
        table = [Label(1, other, (1, 1, 1)), Label(2, one, (2, 2, 2))]
        write_nrrd_segmentation(tmp_path / "x.seg.nrrd", swapped, result.grid, table)
        write_dicom_seg(tmp_path / "x.dcm", label_map(swapped, result.series, table, "by hand", "1"), False)
        write_rtstruct(tmp_path / "rt.dcm", label_map(swapped, result.series, table, "by hand", "1", result.grid))
        for path in (tmp_path / "x.seg.nrrd", tmp_path / "x.dcm"):
            (case,) = evaluate(path, tmp_path / "reference.nii.gz", EvaluationOptions({1: one, 2: other})).done
            assert [score.overlap.dice for score in case.labels] == [1, 1], path
        for path in (tmp_path / "x.dcm", tmp_path / "rt.dcm"):
            assert dcmread(path).SpecificCharacterSet == "ISO_IR 192"
        assert [roi.ROIName for roi in dcmread(tmp_path / "rt.dcm").StructureSetROISequence] == [other, one]
        # two names of one label: never a guess
        table = [Label(1, one.lower(), (1, 1, 1)), Label(2, one, (2, 2, 2))]
        write_nrrd_segmentation(tmp_path / "x.seg.nrrd", swapped, result.grid, table)
        (case,) = evaluate(tmp_path / "x.seg.nrrd", tmp_path / "reference.nii.gz", EvaluationOptions({1: one})).cases
        assert "are one name" in case.reason


def test_a_label_of_another_name_is_never_scored_as_ours(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 2, layout="nnunet", names={"Front": 1, "Kidney": 2})
    found = evaluate(data / "labelsTr", data, EvaluationOptions({1: "front", 2: "spleen"}))
    assert {one.name: one.metrics["dice"].mean.value for one in found.summaries[:2]} == {"front": 1, "spleen": 0}
    (note,) = found.notes
    assert note.endswith("not scored, for their names are others: 2 is Kidney there, not spleen")


def test_values_that_a_file_scales_are_rounded(tmp_path: Path) -> None:
    label = np.zeros((8, 8, 8), np.float32)
    label[2:5] = 1.00001526
    (case,) = evaluate(write(tmp_path / "a.nii.gz", label), write(tmp_path / "b.nii.gz", np.rint(label))).cases
    assert case.labels[0].overlap.dice == 1
    assert case.notes == (ROUNDED,)
    (case,) = evaluate(write(tmp_path / "a.nii.gz", label * 0.9999 - 1e-5), tmp_path / "b.nii.gz").cases
    assert case.labels[0].overlap.dice == 1
    (case,) = evaluate(write(tmp_path / "a.nii.gz", label * 1.01), tmp_path / "b.nii.gz").cases
    assert "got values that are no integers" in case.reason


def test_overlapping_labels_are_scored_in_each_format_that_segment_writes(dicom_scan: Path, tmp_path: Path) -> None:
    names = {"0": "whole", "1": "core", "2": "rim"}
    metadata = {"network_data_format": {"outputs": {"pred": {"channel_def": names}}}}
    sigmoid = [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}]
    threshold = [{"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}]
    steps = {"_target_": "Compose", "transforms": [*sigmoid, {**INVERT, "nearest_interp": False}, *threshold]}
    bundle = write_layer(tmp_path / "bundle", {"postprocessing": steps}, metadata=metadata)
    result = Segmenter.from_bundle(bundle, trust=True, device="cpu", backend="torch")(dicom_scan)
    assert (result.labels.sum(axis=0) > 1).any()
    assert all(0.01 < layer.mean() < 0.99 for layer in result.labels)
    paths = [tmp_path / name for name in ("a.nii.gz", "a.seg.nrrd", "a.dcm")]
    for path in paths:
        result.save(path)
        found = evaluate(path, paths[0], bundle=None if path.suffix == ".dcm" else bundle)
        assert not found.failed, found.failed
        assert [one.overlap.dice for one in found.done[0].labels] == [1, 1, 1], path
        assert [one.overlap.predicted for one in found.done[0].labels] == list(result.voxel_counts.values())
        assert path.suffix == ".dcm" or [one.name for one in found.summaries[:3]] == list(names.values())
    # by the names of segments, with any numbers
    for path in paths[1:]:
        (case,) = evaluate(path, paths[0], EvaluationOptions({1: "whole", 3: "core", 2: "rim"})).done
        assert [one.overlap.dice == 1 for one in case.labels] == [True, False, False], path
    done = run(paths[0], paths[0], "-b", bundle, "-o", tmp_path / "out", "--trust")
    assert done.returncode == 0, done.stderr
    assert [row["name"] for row in read_csv(tmp_path / "out" / "metrics.csv")] == list(names.values())
    assert "data:image/" in (tmp_path / "out" / "evaluation.html").read_text()
    # one label beside several, in layers and in one label map
    one = np.where(result.labels[1], 2, 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(one, result.grid.affine), tmp_path / "one.nii.gz")
    (case,) = evaluate(paths[0], tmp_path / "one.nii.gz", EvaluationOptions({2: "core"}, ignore=5)).done
    assert case.labels[0].overlap.dice == 1


def test_a_series_of_images_is_no_label_map(tmp_path: Path) -> None:
    layers = np.zeros((8, 8, 8, 3), np.uint8)
    layers[2:4, 2:4, 2:4] = (1, 2, 5)
    (case,) = evaluate(write(tmp_path / "a.nii.gz", layers), tmp_path / "a.nii.gz").cases
    assert "a layer of 0 and 1 for each label, got values up to 5 in layer 3" in case.reason


def test_grey_values_are_reported(tmp_path: Path) -> None:
    scan = write(tmp_path / "a.nii.gz", np.arange(512, dtype=np.int16).reshape(8, 8, 8))
    assert evaluate(scan, scan).notes == ("511 different values were scored: are these label maps, and no scans?",)


def test_what_nnunet_calls_ignore_is_ignored_in_each_naming_of_the_labels(tmp_path: Path) -> None:
    predictions, references = write_cases(tmp_path, 2)
    (references / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1, "ignore": 2}}))
    for options in (EvaluationOptions(), EvaluationOptions({1: "liver"})):
        found = evaluate(predictions, references.parent / "references" / "case_0.nii.gz", options)
        (case,) = found.done
        assert found.config.ignore == 2
        assert [one.label for one in case.labels] == [1]
        assert case.absent is not None
        assert case.absent.neither == 30 * 24 * 16 - 9 * 7 * 8


def test_values_that_no_label_has_are_reported(tmp_path: Path) -> None:
    predictions, references = write_cases(tmp_path, 1)
    done = run(predictions, references, "-o", tmp_path / "out", "--labels", "1=liver", "--worst", 0)
    path = predictions / "case_0_seg.nii.gz"
    assert done.stderr == f"tomoseg: note: {path}: holds the values 2, which no label has; they are not scored\n"


def test_a_planned_bundle_is_scored_by_name_on_a_dataset_that_numbers_otherwise(tmp_path: Path) -> None:
    """By value, the back part would be compared with the front part."""
    names = {"Front": 2, "Back part": 7}
    data = write_dataset(tmp_path / "data", 2, layout="nnunet", names=names, ignore=True)
    plan(data, tmp_path / "bundle", PlanningOptions(4 * 10**9, "cpu", "small"))
    (tmp_path / "predictions").mkdir()
    for path in (data / "labelsTr").iterdir():
        image = nib.load(path)
        labels = np.asarray(image.dataobj)
        planned = np.select([labels == 2, labels == 7], [1, 2], 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(planned, image.affine), tmp_path / "predictions" / path.name)
    options = ["-b", tmp_path / "bundle", "-o", tmp_path / "out", "--within-slices", "back_part"]
    done = run(tmp_path / "predictions", data, *options)
    assert done.returncode == 0, done.stderr
    assert "Front is 1, and 2 in the references; Back part is 2, and 7 in the references" in done.stdout + done.stderr
    rows = read_csv(tmp_path / "out" / "metrics.csv")
    assert [(row["name"], float(row["dice"])) for row in rows] == [("Front", 1.0), ("Back part", 1.0)] * 2
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content["config"]["reference_values"] == {"2": 1, "7": 2}
    assert content["config"]["ignore"] == 8


def test_masks_of_255_are_scored_by_the_bundle_that_was_planned_for_them(tmp_path: Path) -> None:
    """Label maps without names, and a bundle whose own values are 1 and 2."""
    data = write_dataset(tmp_path / "data", 2, layout="plain", names={"Front": 128, "Back": 255})
    plan(data, tmp_path / "bundle", PlanningOptions(4 * 10**9, "cpu", "small"))
    (tmp_path / "predictions").mkdir()
    for path in (data / "labels").iterdir():
        image = nib.load(path)
        planned = np.rint(np.asarray(image.dataobj) / 127).astype(np.uint8)
        nib.save(nib.Nifti1Image(planned, image.affine), tmp_path / "predictions" / path.name)
    done = run(tmp_path / "predictions", data / "labels", "-b", tmp_path / "bundle", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "label_128 is 1, and 128 in the references; label_255 is 2, and 255" in done.stderr
    rows = read_csv(tmp_path / "out" / "metrics.csv")
    assert [(row["name"], float(row["dice"])) for row in rows] == [("label_128", 1.0), ("label_255", 1.0)] * 2
    done = run(tmp_path / "predictions", data / "labels", "-o", tmp_path / "other")
    assert "none of the labels that were predicted (1, 2) occurs in the references (128, 255)" in done.stderr


def test_values_that_both_sides_may_have_are_never_exchanged_unasked(tmp_path: Path) -> None:
    """Planned for labels 2 and 7: a 2 in a reference may be the dataset's, or the bundle's own."""
    predictions, references = write_cases(tmp_path)
    options = EvaluationOptions({1: "front", 2: "back"}, planned={1: 2, 2: 7})
    assert evaluate(predictions, references, options).config.reference_values.values == {}
    options = EvaluationOptions({1: "front", 2: "back"}, planned={1: 1, 2: 7})
    assert evaluate(predictions, references, options).config.reference_values.values == {7: 2}

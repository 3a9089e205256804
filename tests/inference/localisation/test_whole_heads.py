"""Whole heads through the whole program: both hippocampi, on their sides, in the scan's own grid."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from nibabel.processing import resample_to_output
from pydicom import dcmread

from support.command_line import run_inside
from support.heads import colin27, halved, mni152, moved
from support.tiers import rest_exhaustive
from tomoseg import Segmentation, Segmenter, read_volume, segment_batch

pytestmark = pytest.mark.slow

NAMES = {1: "left anterior", 2: "left posterior", 3: "right anterior", 4: "right posterior"}
AAL_HIPPOCAMPUS = (37, 38)
BY_HAND = ("left=-26,-22,-10", "right=26,-22,-10")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_inside("segment", *arguments, "-b", "hippocampus", "--device", "cpu")


def assert_sides(result: Segmentation, low_ml: float = 2.0, high_ml: float = 5.0) -> None:
    assert result.names == NAMES
    assert result.location is not None
    for region, values in zip(result.location.regions, ((1, 2), (3, 4)), strict=True):
        assert low_ml < region.volume_ml < high_ml
        voxels = np.argwhere(np.isin(result.labels, values))
        assert len(voxels) == region.voxels
        np.testing.assert_allclose(apply_affine(result.grid.affine, voxels.mean(axis=0)), region.centre_mm, atol=1e-6)
    left, right = (np.array(region.centre_mm) for region in result.location.regions)
    assert 40 < (right - left)[0] < 70


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_bundle("hippocampus", device="cpu")


@pytest.fixture(scope="module")
def folder(real_scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head, the same turned upside down with a header that does not say so, and a crop."""
    target = tmp_path_factory.mktemp("scans")
    head = nib.load(halved(mni152(), target / "head.nii.gz"))
    flipped = np.asanyarray(head.dataobj)[:, ::-1, ::-1]
    nib.save(nib.Nifti1Image(np.where(flipped > 150, 0, flipped), head.affine), target / "upside_down.nii.gz")
    shutil.copy(real_scan, target / "crop.nii.gz")
    return target


@pytest.fixture(scope="module")
def output(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("out")
    done = run(folder, "-o", target, "--preview", "--strict", "--uncertainty")
    assert done.returncode == 1, done.stderr
    assert "upside_down.nii.gz: the MNI152 head fits badly: similarity 0.0" in done.stderr
    assert "head.nii.gz: the MNI152" not in done.stderr.replace("upside_down", "")
    return target


def test_a_batch_of_heads_and_crops(folder: Path, output: Path) -> None:
    report = json.loads((output / "report.json").read_text())
    cases: dict[str, Any] = {Path(case["input"]).name: case for case in report["cases"]}
    assert [case["status"] for case in report["cases"]] == ["done"] * 3
    assert [row["name"] for row in cases["crop.nii.gz"]["labels"]] == ["anterior", "posterior"]
    assert cases["crop.nii.gz"]["location"] is None
    assert cases["crop.nii.gz"]["warnings"] == cases["head.nii.gz"]["warnings"] == []
    assert cases["upside_down.nii.gz"]["warnings"]
    head = cases["head.nii.gz"]
    assert {row["label"]: row["name"] for row in head["labels"]} == NAMES
    location = head["location"]
    assert location["template"] == "MNI152"
    assert location["similarity"] > 0.7
    assert 1500 < location["icv_ml"] < 2100
    left, right = location["regions"]
    assert left["centre_mm"][0] < -20 < 20 < right["centre_mm"][0]
    expected = 200 * (left["volume_ml"] - right["volume_ml"]) / (left["volume_ml"] + right["volume_ml"])
    assert location["asymmetry_percent"] == pytest.approx(expected)
    assert abs(expected) < 5  # this head is symmetric
    for region, values in ((left, (1, 2)), (right, (3, 4))):
        assert 2 < region["volume_ml"] < 5
        assert region["volume_ml"] == pytest.approx(
            sum(row["volume_ml"] for row in head["labels"] if row["label"] in values)
        )
        assert region["per_icv"] == pytest.approx(1000 * region["volume_ml"] / location["icv_ml"])
    scan, labels = nib.load(folder / "head.nii.gz"), nib.load(output / "head_seg.nii.gz")
    assert labels.shape == scan.shape
    np.testing.assert_array_equal(labels.affine, scan.affine)
    voxels = np.asanyarray(labels.dataobj)
    for values, side in (((1, 2), -1), ((3, 4), 1)):
        x = apply_affine(labels.affine, np.argwhere(np.isin(voxels, values)))[:, 0]
        assert (np.sign(x) == side).all()
    entropy = np.asanyarray(nib.load(output / "head_seg_entropy.nii.gz").dataobj)
    assert 0 < entropy[voxels > 0].mean() < 0.5
    assert (entropy > 0).sum() < 0.1 * entropy.size
    assert (output / "head_seg.png").is_file()
    page = (output / "report.html").read_text()
    assert "1 with warnings" in page
    assert all(name in page for name in (*NAMES.values(), "<b>3</b> of 3 scans have labels"))


def test_the_structures_stand_in_the_statistics(output: Path) -> None:
    with (output / "statistics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["input"].endswith("head.nii.gz")]
    structures = [row for row in rows if not row["label"]]
    assert [row["name"] for row in rows if row["label"]] == list(NAMES.values())
    assert [row["name"] for row in structures] == ["left hippocampus", "right hippocampus"]
    for row in structures:
        per_litre = 1000 * float(row["volume_ml"]) / float(row["icv_ml"])
        assert float(row["volume_per_icv"]) == pytest.approx(per_litre, rel=1e-4)
        assert abs(float(row["asymmetry_percent"])) < 5


def test_run_again_nothing_is_done_and_the_warnings_stay(folder: Path, output: Path) -> None:
    before = (output / "head_seg.nii.gz").read_bytes()
    done = run(folder, "-o", output, "--preview", "--strict", "--uncertainty")
    assert done.returncode == 1
    assert done.stdout.count("done by an earlier run") == 4  # each, and the summary
    assert "upside_down.nii.gz: the MNI152 head fits badly" in done.stderr
    assert (output / "head_seg.nii.gz").read_bytes() == before
    lenient = run(folder, "-o", output, "--preview", "--uncertainty")
    assert lenient.returncode == 0


def test_places_given_by_hand_need_no_registration(folder: Path, output: Path) -> None:
    report = segment_batch(
        Segmenter.from_bundle("hippocampus", device="cpu", roi=BY_HAND),
        [folder / "head.nii.gz"],
        output / "hand.nii.gz",
    )
    (case,) = report.cases
    assert case.status == "done"
    assert case.location is not None
    assert (case.location.similarity, case.location.icv_ml) == (None, None)
    found, by_hand = (np.asanyarray(nib.load(output / name).dataobj) for name in ("head_seg.nii.gz", "hand.nii.gz"))
    both = 2 * np.count_nonzero((found > 0) & (by_hand > 0)) / (np.count_nonzero(found) + np.count_nonzero(by_hand))
    assert both > 0.93
    assert [region.per_icv for region in case.location.regions] == [None, None]


def test_one_side_by_hand(folder: Path) -> None:
    result = Segmenter.from_bundle("hippocampus", device="cpu", roi=BY_HAND[1:])(folder / "head.nii.gz")
    assert set(np.unique(result.labels)) == {0, 3, 4}
    assert result.names == NAMES
    assert result.location is not None
    assert result.location.asymmetry_percent is None
    for names, regions in (("right*", 1), ("right anterior", 0)):  # a volume of both parts is not that of one
        kept = result.keep([names])
        assert kept.location is not None
        assert len(kept.location.regions) == regions


def test_a_box_in_the_wrong_place_is_reported(folder: Path) -> None:
    segmenter = Segmenter.from_bundle("hippocampus", device="cpu", roi=("left=-60,-120,-60",))
    assert any("beyond the scan" in warning for warning in segmenter(folder / "head.nii.gz").warnings)
    outside = Segmenter.from_bundle("hippocampus", device="cpu", roi=("left=-600,-22,-10",))(folder / "head.nii.gz")
    assert not outside.labels.any()
    assert "left hippocampus: 0.00 mL is implausible, expected 1.5 to 6 mL" in outside.warnings


def test_a_scan_of_a_series_gives_a_dicom_segmentation_with_sides(folder: Path, tmp_path: Path) -> None:
    from support.dicoms import write_series
    from tomoseg import Grid

    head = nib.load(folder / "head.nii.gz")
    array = np.asanyarray(head.dataobj).astype(np.int16)
    write_series(tmp_path / "series", array, Grid(head.shape, head.affine), modality="MR")
    result = Segmenter.from_bundle("hippocampus", device="cpu", roi=BY_HAND)(tmp_path / "series")
    result.save(tmp_path / "seg.dcm")
    result.save(tmp_path / "rtstruct.dcm", "rtstruct")
    segments = dcmread(tmp_path / "seg.dcm").SegmentSequence
    regions = dcmread(tmp_path / "rtstruct.dcm").RTROIObservationsSequence
    assert [segment.SegmentLabel for segment in segments] == list(NAMES.values())
    kinds = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in segments]
    for kind, name in zip([*kinds, *(r.RTROIIdentificationCodeSequence[0] for r in regions)], 2 * list(NAMES.values()),
                          strict=True):  # fmt: skip
        assert kind.CodeValue == "5366008"
        modifiers = [code.CodeMeaning for code in kind.SegmentedPropertyTypeModifierCodeSequence]
        assert " ".join(modifiers).lower() == name
        assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue in ("7771000", "24028007")
    result.save(tmp_path / "s.seg.nrrd")
    header = (tmp_path / "s.seg.nrrd").read_bytes()[:4000].decode("latin-1")
    assert header.count("SCT^7771000^Left") == header.count("SCT^24028007^Right") == 2


@pytest.mark.exhaustive
def test_a_turned_head_gives_the_same_volumes(segmenter: Segmenter, folder: Path) -> None:
    scan = read_volume(folder / "head.nii.gz")
    straight, turned = segmenter(scan), segmenter(moved(scan, (20.0, -25.0, 30.0), np.array([40.0, -30.0, 20.0])))
    assert_sides(straight)
    assert turned.location is not None
    assert straight.location is not None
    for one, other in zip(straight.location.regions, turned.location.regions, strict=True):
        assert other.volume_ml == pytest.approx(one.volume_ml, rel=0.05)
    both = (
        2
        * ((straight.labels > 0) & (turned.labels > 0)).sum()
        / ((straight.labels > 0).sum() + (turned.labels > 0).sum())
    )
    assert both > 0.9


def test_colin27_against_aal(segmenter: Segmenter) -> None:
    """AAL's hippocampus has 15.1 mL, and so no segmentation of 8.3 mL has a Dice above 0.71 with it."""
    result = segmenter(colin27("ch2.nii.gz"))
    assert result.warnings == ()
    assert_sides(result)
    atlas = np.asanyarray(nib.load(colin27("aal.nii.gz")).dataobj)
    for values, label in (((1, 2), AAL_HIPPOCAMPUS[0]), ((3, 4), AAL_HIPPOCAMPUS[1])):
        ours, theirs = np.isin(result.labels, values), atlas == label
        assert np.count_nonzero(ours & theirs) / np.count_nonzero(ours) > 0.75
        assert 2 * np.count_nonzero(ours & theirs) / (np.count_nonzero(ours) + np.count_nonzero(theirs)) > 0.55
        assert not (ours & np.isin(atlas, AAL_HIPPOCAMPUS) & ~theirs).any()


def test_a_childs_head_from_dicom(segmenter: Segmenter, checkout: Path) -> None:
    series = checkout.parent / "shared" / "data" / "mr_head_dicom"
    if not series.is_dir():
        pytest.skip(f"{series} is not there; it is no part of the project")
    result = segmenter(series)
    assert_sides(result)
    assert result.warnings == ()
    assert result.grid == read_volume(series).grid


@pytest.mark.parametrize("codes", rest_exhaustive(["PIR", "LPS", "RSA", "IAL"]))
def test_other_orientations_give_the_same_labels(segmenter: Segmenter, folder: Path, codes: str) -> None:
    scan = nib.load(folder / "head.nii.gz")
    other = scan.as_reoriented(ornt_transform(io_orientation(scan.affine), axcodes2ornt(tuple(codes))))
    found = segmenter(other)
    back = nib.Nifti1Image(found.labels, found.grid.affine)
    back = back.as_reoriented(ornt_transform(io_orientation(back.affine), axcodes2ornt(("R", "A", "S"))))
    straight = segmenter(scan).labels
    assert np.count_nonzero(np.asanyarray(back.dataobj) != straight) <= 0.005 * np.count_nonzero(straight)


def test_voxels_that_are_too_coarse_are_reported(segmenter: Segmenter) -> None:
    """Slices of 5 mm have fewer mm³ than voxels of 3 mm, but too much is found in them, and in some heads nothing."""
    head = nib.load(mni152())
    reported = segmenter(resample_to_output(head, (1.0, 5.0, 1.0))).warnings
    assert (
        "voxels of 1×5×1 mm are too coarse, expected at most 3 mm along each axis; volumes may come out" in reported[0]
    )


@pytest.mark.parametrize("mm", rest_exhaustive([(1.0, 1.0, 3.0), (3.0, 3.0, 3.0)]))
def test_volumes_of_coarse_scans_are_those_of_the_fine_one(segmenter: Segmenter, mm: tuple[float, ...]) -> None:
    head = nib.load(mni152())
    fine, coarse = segmenter(head), segmenter(resample_to_output(head, mm))
    assert coarse.warnings == ()
    assert fine.location is not None
    assert coarse.location is not None
    for one, other in zip(fine.location.regions, coarse.location.regions, strict=True):
        assert other.volume_ml == pytest.approx(one.volume_ml, rel=0.05)

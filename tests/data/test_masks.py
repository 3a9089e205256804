"""Label maps beside scans are no patients; all that may be a scan is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from support.bundles import BUNDLE_NAME
from support.trainings import tomoseg
from tomoseg.batch.cases import plan_cases
from tomoseg.batch.watch_folder import WatchFolder
from tomoseg.core.notes import collect_notes
from tomoseg.data.discovery import find_scans

SHAPE = (12, 13, 14)
CT = np.random.default_rng(0).integers(-1000, 2000, SHAPE).astype(np.int16)
MASK = (np.indices(SHAPE).sum(axis=0) > 20).astype(np.uint8)


def save(path: Path, array: Any, shift: float = 0) -> Path:
    affine = np.diag([1.0, 1, 2, 1])
    affine[0, 3] = shift
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.mark.parametrize(
    "name", ["_mask", "_seg", "_label", "_labels", "_gt", "-label", "_Segmentation", ".mask", "_roi", "-seg", "_masks"]
)
def test_a_mask_beside_its_scan_is_passed_over(name: str, tmp_path: Path) -> None:
    scan, mask = save(tmp_path / "a.nii.gz", CT), save(tmp_path / f"a{name}.nii.gz", MASK)
    for inputs in ([tmp_path], [scan, mask], [f"{tmp_path}/*.nii.gz"]):
        with collect_notes() as notes:
            assert [case.input for case in plan_cases(inputs, tmp_path / "out")] == [scan]
        assert notes == [f"{mask}: skipped, because it is the label map of a.nii.gz. --all-files includes it"]
        assert len(plan_cases(inputs, tmp_path / "out", all_files=True)) == 2
    assert [case.input for case in plan_cases([mask], tmp_path / "out")] == [mask]  # it was asked for


OTHERS = {
    "a CT that is called so": ("a_seg", CT, 0),
    "negative values": ("a_mask", MASK.astype(np.int16) - 1, 0),
    "values that are not whole": ("a_mask", MASK * np.float32(0.5), 0),
    "many whole values": ("a_mask", np.arange(CT.size, dtype=np.int16).reshape(SHAPE) % 257, 0),
    "another grid": ("a_mask", MASK, 3),
    "another shape": ("a_mask", MASK[:-1], 0),
    "another name": ("a_venous", MASK, 0),
    "the mask of no scan": ("b_mask", MASK, 0),
    "a mask in another folder": ("sub/a_mask", MASK, 0),
}


@pytest.mark.parametrize("case", OTHERS)
def test_everything_else_is_a_scan(case: str, tmp_path: Path) -> None:
    name, array, shift = OTHERS[case]
    expected = {save(tmp_path / "a.nii.gz", CT), save(tmp_path / f"{name}.nii.gz", array, shift)}
    with collect_notes() as notes:
        assert {scan.path for scan in find_scans(tmp_path)} == expected
    assert notes == []


@pytest.mark.parametrize("array", [MASK, np.stack([MASK, 1 - MASK], axis=3), MASK.astype(np.float64) * 256])
def test_few_values_may_be_of_any_size_and_overlap(array: Any, tmp_path: Path) -> None:
    scan = save(tmp_path / "a.nii", CT)
    save(tmp_path / "a_seg.nii.gz", array)
    assert [one.path for one in find_scans(tmp_path)] == [scan]


def test_a_mask_in_another_format_belongs_to_its_scan(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(CT)
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    mask = sitk.GetImageFromArray(np.ones(SHAPE, np.uint8))
    mask.CopyInformation(image)
    sitk.WriteImage(mask, str(tmp_path / "a_mask.mha"))
    assert [one.path.name for one in find_scans(tmp_path)] == ["a.nrrd"]


def test_a_mask_that_arrives_with_its_scan_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.nii.gz", CT)
    save(tmp_path / "in" / "a_mask.nii.gz", MASK)
    for all_files, names in ((False, ["a.nii.gz"]), (True, ["a.nii.gz", "a_mask.nii.gz"])):
        folder = WatchFolder(tmp_path / "in", tmp_path / "out", 0, all_files=all_files)
        assert [scan.path.name for scan in folder.poll(0)] == names


def test_our_own_results_are_known_by_their_manifest(tmp_path: Path) -> None:
    crop = np.random.default_rng(1).integers(0, 900, (40, 48, 36)).astype(np.int16)
    save(tmp_path / "in" / "deep" / "a.nii.gz", crop)
    done = tomoseg("segment", "in/deep", "-o", "in/results", "-b", BUNDLE_NAME, "--device", "cpu", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    again = tomoseg("segment", "in", "-o", "out", "-b", BUNDLE_NAME, "--device", "cpu", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert [path.name for path in (tmp_path / "out").rglob("*.nii.gz")] == ["a_seg.nii.gz"]
    assert "a_seg.nii.gz: skipped, because it is a result of tomoseg" in again.stderr

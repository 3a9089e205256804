"""How a planned bundle finds and reads the files of a dataset, in formats and layouts that people have."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from monai.transforms import Compose

from support.bundles import parse_config
from support.trainings import check_data, tiny_bundle, write_dataset
from tomoseg import find_bundle
from tomoseg.core.errors import DatasetError
from tomoseg.data import formats
from tomoseg.planning.bundle_writer import plan
from tomoseg.planning.options import PlanningOptions
from tomoseg.training.options import TrainingOptions
from tomoseg.training.training import train

BUDGET = PlanningOptions(4 * 10**9, "cpu", "small")


def convert(folder: Path, suffix: str) -> None:
    for path in sorted(folder.rglob("*.nii.gz")):
        sitk.WriteImage(sitk.ReadImage(path), path.with_name(path.name.replace(".nii.gz", suffix)))
        path.unlink()


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_other_formats_are_planned_and_trained_on(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("itk")
    dataset = write_dataset(tmp_path / "data", 4, layout="plain")
    convert(dataset, suffix)
    bundle = find_bundle(tiny_bundle(dataset, tmp_path / "bundle", steps=1))
    assert "itk" in json.loads((bundle.root / "configs" / "metadata.json").read_text())["required_packages_version"]
    options = TrainingOptions(epochs=2, fold=0, device="cpu")
    assert train(bundle, check_data(dataset), options, tmp_path / "train", hidden=True).weights.is_file()


def test_what_monai_cannot_read_is_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_dataset(tmp_path / "data", 4, layout="plain")
    convert(dataset, ".nrrd")
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(DatasetError, match=r"case_00\.nrrd: MONAI needs the package itk"):
        plan(dataset, tmp_path / "bundle", BUDGET)
    assert not (tmp_path / "bundle").exists()


def test_vectors_as_itk_writes_them_are_reported_before_the_training(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", 4)
    content = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(content | {"modality": {"0": "T1", "1": "T2"}}))
    for path in (dataset / "imagesTr").iterdir():
        image = nib.load(path)
        pair = np.stack([np.asarray(image.dataobj)] * 2, axis=-1)[:, :, :, None]
        nib.save(nib.Nifti1Image(pair, image.affine), path)
    with pytest.raises(DatasetError, match=r"case_00\.nii\.gz: expected a 3D or 4D file.* got \d+×\d+×\d+×1×2 voxels"):
        plan(dataset, tmp_path / "bundle", BUDGET)


def test_lists_of_nnunet_1_without_the_numbers_of_channels_are_found(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", 6, layout="nnunet")
    names = [f"case_{case:02}.nii.gz" for case in range(6)]
    content = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "front", "2": "back"},
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": [],
    }
    (dataset / "dataset.json").write_text(json.dumps(content))
    plan(dataset, tmp_path / "bundle", BUDGET)
    train_config = parse_config(tmp_path / "bundle", "train", dataset_dir=str(dataset), fold="none")
    cases = train_config.get_parsed_content("train_cases")
    assert sorted(Path(case["image"]).name for case in cases) == [f"case_{case:02}_0000.nii.gz" for case in range(6)]
    assert all(Path(path).is_file() for case in cases for path in case.values())


@pytest.mark.parametrize(("label_mm", "own"), [(1.0734, False), (1.0716, False), (1.14, True)])
def test_a_label_map_takes_the_affine_of_its_scan_where_both_differ_by_rounding(
    label_mm: float, own: bool, tmp_path: Path
) -> None:
    """From 1.07145 mm on, `Spacingd` makes one voxel more: trainings ended in their first validation."""
    dataset = write_dataset(tmp_path / "data", 2)
    bundle = tiny_bundle(dataset, tmp_path / "bundle")
    case = {"image": dataset / "imagesTr" / "case_00.nii.gz", "label": dataset / "labelsTr" / "case_00.nii.gz"}
    for path, length in zip(case.values(), (1.0714, label_mm), strict=True):
        nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj), np.diag([length, 1, 1, 1])), path)
    parser = parse_config(bundle, "train", dataset_dir=str(dataset))
    found = Compose(parser.get_parsed_content("train::deterministic_transforms"))(case)
    assert (found["image"].shape != found["label"].shape) == own
    assert sorted(found["label"].unique().tolist()) == [0, 1, 2]

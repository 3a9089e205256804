"""A bundle that somebody else wrote, in the model zoo's own style, gives what `monai.bundle run` gives."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from tomoseg import Segmenter

# a network that a person can compute: the scores of "soft tissue" and "bone" cross where the window's middle is
CONFIG = """
imports: ["$import glob", "$import os"]
bundle_root: .
dataset_dir: data
output_dir: eval
modelname: threshold.pt
datalist: "$sorted(glob.glob(@dataset_dir + '/*.nii.gz'))"
device: "$torch.device('cpu')"
network_def: {_target_: torch.nn.Conv3d, in_channels: 1, out_channels: 3, kernel_size: 1}
network: "$@network_def.to(@device)"
preprocessing:
  _target_: Compose
  transforms:
    - {_target_: LoadImaged, keys: image}
    - {_target_: EnsureChannelFirstd, keys: image}
    - {_target_: Orientationd, keys: image, axcodes: RAS, labels: null}
    - {_target_: Spacingd, keys: image, pixdim: [2.0, 2.0, 3.0], mode: bilinear}
    - {_target_: ScaleIntensityRanged, keys: image, a_min: -200, a_max: 600, b_min: 0.0, b_max: 1.0, clip: true}
    - {_target_: CropForegroundd, keys: image, source_key: image, allow_smaller: true}
    - {_target_: EnsureTyped, keys: image}
dataset:
  _target_: Dataset
  data: "$[{'image': i} for i in @datalist]"
  transform: "@preprocessing"
dataloader: {_target_: DataLoader, dataset: "@dataset", batch_size: 1, num_workers: 0}
inferer: {_target_: SlidingWindowInferer, roi_size: [16, 16, 16], sw_batch_size: 4, overlap: 0.25}
postprocessing:
  _target_: Compose
  transforms:
    - {_target_: Activationsd, keys: pred, softmax: true}
    - {_target_: Invertd, keys: pred, transform: "@preprocessing", orig_keys: image, nearest_interp: false}
    - {_target_: AsDiscreted, keys: pred, argmax: true}
    - {_target_: SaveImaged, keys: pred, output_dir: "@output_dir", separate_folder: false, output_postfix: trans}
checkpointloader:
  _target_: CheckpointLoader
  load_path: "$@bundle_root + '/models/' + @modelname"
  load_dict: {model: "@network"}
evaluator:
  _target_: SupervisedEvaluator
  device: "@device"
  val_data_loader: "@dataloader"
  network: "@network"
  inferer: "@inferer"
  postprocessing: "@postprocessing"
run: ["$@checkpointloader(@evaluator)", "$@evaluator.run()"]
"""


@pytest.fixture(scope="module")
def zoo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("zoo") / "threshold_ct_segmentation"
    (root / "configs").mkdir(parents=True)
    (root / "models").mkdir()
    (root / "configs" / "inference.yaml").write_text(CONFIG)
    (root / "configs" / "metadata.json").write_text('{"version": "0.0.1"}')
    weights = {
        "weight": torch.tensor([0.0, 40.0, 80.0]).reshape(3, 1, 1, 1, 1),
        "bias": torch.tensor([0.0, -12.0, -40.0]),
    }
    torch.save({"model": weights}, root / "models" / "threshold.pt")
    return root


@pytest.fixture(scope="module")
def ct_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth blobs in HU: plain, and with other axes, anisotropic and oblique."""
    folder = tmp_path_factory.mktemp("ct")
    i, j, k = np.indices((40, 36, 30))
    hounsfield = -1000 + 1500 * np.exp(-((i - 14) ** 2 + (j - 20) ** 2 + (k - 12) ** 2) / 150)
    hounsfield += 900 * np.exp(-((i - 28) ** 2 + (j - 10) ** 2 + (k - 20) ** 2) / 60)
    angle = np.deg2rad(12)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    plain = nib.Nifti1Image(hounsfield.astype("int16"), np.diag([1.5, 1.5, 1.5, 1]))
    turned = plain.as_reoriented(ornt_transform(io_orientation(plain.affine), axcodes2ornt(("P", "I", "R"))))
    nib.save(plain, folder / "plain.nii.gz")
    nib.save(
        nib.Nifti1Image(turned.dataobj, tilt @ turned.affine @ np.diag([1, 0.6, 1.7, 1])), folder / "turned.nii.gz"
    )
    return folder


@pytest.mark.parametrize(
    ("activation", "remark"),
    [
        ("softmax: true", ""),
        ("other: '$torch.sigmoid'", "run by MONAI itself, for the engine does not know Activationsd"),
    ],
    ids=["by the engine", "by MONAI"],
)
def test_equals_monai_bundle_run(
    zoo_bundle: Path, ct_scans: Path, tmp_path: Path, activation: str, remark: str
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(zoo_bundle, bundle)
    assert "softmax: true" in CONFIG
    (bundle / "configs" / "inference.yaml").write_text(CONFIG.replace("softmax: true", activation))
    command = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.yaml"]
    command += ["--dataset_dir", str(ct_scans), "--output_dir", str(tmp_path)]
    subprocess.run([sys.executable, *command], cwd=bundle, check=True, capture_output=True)
    segmenter = Segmenter.from_bundle(bundle)
    for scan in sorted(ct_scans.iterdir()):
        ours = segmenter(scan)
        assert ours.remark.startswith(remark)
        assert bool(ours.remark) == bool(remark)
        stock = np.asanyarray(nib.load(tmp_path / scan.name.replace(".nii.gz", "_trans.nii.gz")).dataobj)
        assert set(np.unique(ours.labels)) == {0, 1, 2}
        np.testing.assert_array_equal(ours.labels, stock.reshape(ours.labels.shape))

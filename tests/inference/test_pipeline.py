"""A foreign bundle, in the model zoo's own style, gives the labels of `monai.bundle run`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from support.blobs import blobs
from support.bundles import Place
from tomoseg import Segmenter, find_bundle, read_volume, segment_batch
from tomoseg.batch.options import OutputOptions
from tomoseg.inference.config import InferenceConfig, volume_to_load
from tomoseg.inference.pipeline import DevicePreprocessing

PREVIEW = OutputOptions(preview=True)

# a network that a person can compute: the scores of "soft tissue" and "bone" cross where the window's middle is
CONFIG = """
imports: ["$import glob", "$import monai", "$import os"]
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
    - {_target_: Activationsd, keys: pred, softmax: true}  # this and what follows is replaced
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
        "bias": torch.tensor([0.0, -12.013, -40.017]),  # crossing between whole HU, so that no two scores are equal
    }
    torch.save({"model": weights}, root / "models" / "threshold.pt")
    return root


@pytest.fixture(scope="module")
def ct_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth blobs in HU: plain, and with other axes, anisotropic and oblique."""
    folder = tmp_path_factory.mktemp("ct")
    for name, scan in zip(("plain", "turned"), blobs(), strict=True):
        nib.save(scan, folder / f"{name}.nii.gz")
    return folder


SOFTMAX = "{_target_: Activationsd, keys: pred, softmax: true}"
SIGMOID = "{_target_: Activationsd, keys: pred, sigmoid: true}"
OTHER = "{_target_: Activationsd, keys: pred, other: '$torch.sigmoid'}"
LINEAR = "{_target_: Invertd, keys: pred, transform: '@preprocessing', orig_keys: image, nearest_interp: false}"
OTHER_INVERSE = LINEAR.replace("'@preprocessing'", "'$monai.transforms.Compose(@preprocessing.transforms)'")
NEAREST = "{_target_: Invertd, keys: pred, transform: '@preprocessing', orig_keys: image, nearest_interp: true}"
ARGMAX = "{_target_: AsDiscreted, keys: pred, argmax: true}"
THRESHOLD = "{_target_: AsDiscreted, keys: pred, threshold: 0.5}"
LOGITS = "{_target_: AsDiscreted, keys: pred, threshold: 1.0e-07}"
REGIONS = "{_target_: tomoseg.transforms.MergeRegionsd, keys: pred, labels: [1, 3, 2]}"
FILL = "{_target_: FillHolesd, keys: pred, applied_labels: [2]}"
ORIENTATION = "{_target_: Orientationd, keys: image, axcodes: RAS, labels: null}"
SPACING = "{_target_: Spacingd, keys: image, pixdim: [2.0, 2.0, 3.0], mode: bilinear}"

VARIANTS = {
    "a soft-max, interpolated": ([SOFTMAX, LINEAR, ARGMAX], ""),
    "no activation": ([LINEAR, ARGMAX], ""),
    "holes filled in the result": ([SOFTMAX, LINEAR, ARGMAX, FILL], ""),
    "the arg-max before the inverse": ([SOFTMAX, ARGMAX, FILL, NEAREST], ""),
    "a nearest inverse before the arg-max": ([NEAREST, ARGMAX], ""),
    "overlapping labels": ([SIGMOID, LINEAR, THRESHOLD], ""),
    "overlapping labels before the inverse": ([SIGMOID, THRESHOLD, NEAREST], ""),
    "regions of logits": ([LINEAR, LOGITS, REGIONS], ""),
    "arithmetic on the labels": (
        [LINEAR, ARGMAX, "{_target_: Lambdad, keys: pred, func: '$lambda x: 0.5 * x * 2'}"],
        "",
    ),
    "an inverse of something else": (
        [OTHER_INVERSE, ARGMAX],
        "run by MONAI itself: the engine does not support Invertd of other transforms",
    ),
    "an activation of its own": ([OTHER, LINEAR, ARGMAX], "run by MONAI itself: the engine does not support Activ"),
    "an arg-max of a sigmoid": ([SIGMOID, LINEAR, ARGMAX], "run by MONAI itself: the engine does not support an a"),
    "a threshold of a soft-max": ([SOFTMAX, LINEAR, THRESHOLD], "run by MONAI itself: the engine does not support a "),
}


def write_bundle(zoo_bundle: Path, root: Path, steps: list[str], config: str = CONFIG) -> Path:
    shutil.copytree(zoo_bundle, root)
    head, tail = config.split("    - {_target_: Activationsd", 1)
    saved = tail[tail.index("    - {_target_: SaveImaged") :]
    (root / "configs" / "inference.yaml").write_text(head + "".join(f"    - {step}\n" for step in steps) + saved)
    return root


def assert_equals_monai_bundle_run(bundle: Path, scans: Path, output: Path, note: str) -> None:
    places = ("--dataset_dir", str(scans), "--output_dir", str(output))
    Place(bundle, bundle).call("run", "--config_file", "configs/inference.yaml", *places)
    segmenter = Segmenter.from_bundle(bundle)
    for scan in sorted(scans.iterdir()):
        ours = segmenter(scan)
        assert [found[: len(note)] for found in ours.stats.notes] == ([note] if note else [])
        stock = np.asanyarray(nib.load(output / scan.name.replace(".nii.gz", "_trans.nii.gz")).dataobj)
        ours.save(output / "ours.nii.gz")
        labels = np.asanyarray(nib.load(output / "ours.nii.gz").dataobj)
        assert len(np.unique(labels)) == (2 if ours.overlapping else 3)
        np.testing.assert_array_equal(labels, stock.reshape(labels.shape))


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_monai_bundle_run(zoo_bundle: Path, ct_scans: Path, tmp_path: Path, variant: str) -> None:
    steps, note = VARIANTS[variant]
    bundle = write_bundle(zoo_bundle, tmp_path / "bundle", steps)
    assert_equals_monai_bundle_run(bundle, ct_scans, tmp_path, note)


def test_the_spacing_may_come_before_the_orientation(zoo_bundle: Path, ct_scans: Path, tmp_path: Path) -> None:
    config = CONFIG.replace(ORIENTATION, "first").replace(SPACING, ORIENTATION).replace("first", SPACING)
    assert config.index(SPACING) < config.index(ORIENTATION)
    bundle = write_bundle(zoo_bundle, tmp_path / "bundle", [SOFTMAX, LINEAR, ARGMAX], config)
    assert_equals_monai_bundle_run(bundle, ct_scans, tmp_path, "")


def test_an_inferer_of_slices_runs_through_monai(zoo_bundle: Path, ct_scans: Path, tmp_path: Path) -> None:
    inferer = "{_target_: SlidingWindowInferer, roi_size: [16, 16, 16], sw_batch_size: 4, overlap: 0.25}"
    config = CONFIG.replace(inferer, "{_target_: SliceInferer, roi_size: [16, 16], spatial_dim: 2}")
    config = config.replace("torch.nn.Conv3d", "torch.nn.Conv2d")
    assert "SliceInferer" in config
    bundle = write_bundle(zoo_bundle, tmp_path / "bundle", [SOFTMAX, LINEAR, ARGMAX], config)
    weights = torch.load(bundle / "models" / "threshold.pt", weights_only=True)["model"]
    torch.save({"model": {**weights, "weight": weights["weight"][..., 0]}}, bundle / "models" / "threshold.pt")
    note = "run by MONAI itself: the engine does not support the inferer SliceInferer"
    assert_equals_monai_bundle_run(bundle, ct_scans, tmp_path, note)
    (limited,) = Segmenter.from_bundle(bundle, max_memory="9GB")(ct_scans / "plain.nii.gz").stats.notes
    assert limited == f"{note}; --max-memory does not hold for it"


def test_voxels_that_were_cut_off_and_padded_back_are_background(
    zoo_bundle: Path, ct_scans: Path, tmp_path: Path
) -> None:
    crop = "{_target_: CenterSpatialCropd, keys: image, roi_size: [24, 20, 20]}"
    pad = "{_target_: SpatialPadd, keys: image, spatial_size: [36, 36, 36], mode: constant, value: 300}"
    config = CONFIG.replace(f"    - {ORIENTATION}", f"    - {crop}\n    - {pad}\n    - {ORIENTATION}")
    assert crop in config
    bundle = write_bundle(zoo_bundle, tmp_path / "bundle", [SOFTMAX, LINEAR, ARGMAX], config)
    note = "run by MONAI itself: the engine does not support a crop followed by a pad"
    assert_equals_monai_bundle_run(bundle, ct_scans, tmp_path, note)


def test_overlapping_labels_have_their_own_names_and_volumes(zoo_bundle: Path, ct_scans: Path, tmp_path: Path) -> None:
    bundle = write_bundle(zoo_bundle, tmp_path / "bundle", [SIGMOID, LINEAR, THRESHOLD])
    channels = {"0": "whole", "1": "soft", "2": "bone"}
    pred = {"network_data_format": {"outputs": {"pred": {"channel_def": channels}}}}
    (bundle / "configs" / "metadata.json").write_text(json.dumps(pred))
    result = Segmenter.from_bundle(bundle)(ct_scans / "turned.nii.gz")
    assert result.overlapping
    assert result.names == {1: "whole", 2: "soft", 3: "bone"}
    assert result.labels.shape == (3, *result.grid.shape)
    assert result.voxel_counts == {value: int((result.labels[value - 1] == 1).sum()) for value in (1, 2, 3)}
    assert result.volumes_ml["soft"] > result.volumes_ml["bone"] > 0
    report = segment_batch(Segmenter.from_bundle(bundle), [ct_scans], tmp_path / "out", options=PREVIEW)
    assert [case.stats.notes for case in report.cases] == [(), ()]
    assert (tmp_path / "out" / "turned_seg.png").is_file()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_a_device_cannot_preprocess_the_cpu_does(zoo_bundle: Path, ct_scans: Path, device: str) -> None:
    """The device "meta" has no voxels to crop by; it stands for a GPU that some transform does not know."""
    scan = next(ct_scans.glob("*.nii.gz"))
    found = []
    for where in ("cpu", device):
        config = InferenceConfig(find_bundle(zoo_bundle))
        preprocess = DevicePreprocessing(config.preprocessing, config.image_key, torch.device(where))
        with volume_to_load(read_volume(scan)):
            found.append([preprocess({"image": str(scan)})["image"] for _ in range(2)])
    assert preprocess.note.startswith("preprocessed on the CPU: ") == (device == "meta")
    for image in (*found[0], *found[1]):
        assert image.device.type == "cpu"
        assert torch.equal(image.as_tensor(), found[0][0].as_tensor())
        assert torch.equal(image.affine, found[0][0].affine)
        assert [one["class"] for one in image.applied_operations] == [
            one["class"] for one in found[0][0].applied_operations
        ]

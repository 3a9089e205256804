"""Bundles of MONAI's model zoo with random weights, small enough for a test; they are not on a user's machine."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser

from support.blobs import blobs
from support.bundles import CHECKOUT

ZOO = CHECKOUT.parent / "shared" / "zoo"
CODES = "{'arch_code_a': [[1] * 10] * 12, 'arch_code_c': [[0, 1, 0, 1, 0, 1, 0, 1, 0, 1]] * 12}"


@dataclass(frozen=True)
class ZooBundle:
    """One bundle of the zoo, and how it is run here.

    Attributes:
        window: of the sliding window, in place of its own; None for the inferer's own way.
        without: an entry of the network that MONAI of today does not know.
        images: names of the images of one case; of a bundle with one image of several channels, their number.
        overrides: changes that it needs to run on this machine at all.
        config: which of its inference configs.
        reason: why the engine leaves it to MONAI; empty where it does not.
        judge: changes that MONAI needs, too, and that `tomoseg segment` makes by itself, with `note` in a note.
    """

    window: tuple[int, int, int] | None = (32, 32, 32)
    without: str = ""
    images: tuple[str, ...] | int = ("image",)
    overrides: dict[str, Any] = field(default_factory=dict)
    config: str = "inference"
    reason: str = ""
    judge: dict[str, Any] = field(default_factory=dict)
    note: str = ""


BUNDLES = {
    "brats_mri_segmentation": ZooBundle(images=4),
    "pancreas_ct_dints_segmentation": ZooBundle(
        overrides={
            "arch_ckpt": f"${{key: numpy.array(value) for key, value in {CODES}.items()}}",
            "network_def::node_a": "$torch.ones(13, 4)",
            "dints_space::device": "cpu",
            "inferer::overlap": 0.25,
        }
    ),
    "pediatric_abdominal_ct_segmentation": ZooBundle((64, 64, 32), overrides={"inferer::overlap": 0.25}),
    "prostate_mri_anatomy": ZooBundle(
        judge={"postprocessing::transforms::2::nearest_interp": True}, note="nearest_interp: true"
    ),
    "renalStructures_UNEST_segmentation": ZooBundle((96, 96, 96)),
    "segmentation_template": ZooBundle(None, reason="the inferer SimpleInferer"),
    "spleen_ct_segmentation": ZooBundle(),
    "swin_unetr_btcv_segmentation": ZooBundle(
        (64, 64, 64), without="img_size", overrides={"network_def::feature_size": 12}
    ),
    "ventricular_short_axis_3label": ZooBundle(None, reason="the inferer SliceInferer"),
    "wholeBody_ct_segmentation": ZooBundle(overrides={"network_def::init_filters": 8}),
}
# those that MONAI's own commands do not run unchanged
SEGMENTED = BUNDLES | {
    "renalStructures_CECT_segmentation": ZooBundle(
        images=("artery", "vein", "excret"),
        judge={
            "preprocessing::transforms::0::keys": ["artery", "vein", "excret"],
            "postprocessing::transforms::5::_disabled_": True,
        },
        note="loads no label",
    ),
    "spleen_deepedit_annotation": ZooBundle(None, overrides={"spatial_size": [32, 32, 32]}),
    "vista3d": ZooBundle(
        overrides={"network_def": "$monai.networks.nets.vista3d132(encoder_embed_dim=8, in_channels=@input_channels)"}
    ),
    "pediatric_abdominal_ct_segmentation:inference_swinunetr": ZooBundle(
        (64, 64, 64),
        without="img_size",
        overrides={"network_def::feature_size": 12, "inferer::overlap": 0.25},
        config="inference_swinunetr",
    ),
}


def write_case(name: str, folder: Path) -> dict[str, Any]:
    """Write the images of one case for a bundle of the zoo, and return its entry in a list of data."""
    folder.mkdir()
    plain, _ = blobs()
    # of no voxel size of theirs: where grid points meet, MONAI's rounding gives labels to cropped voxels
    scan = nib.Nifti1Image(np.asanyarray(plain.dataobj)[:, :32, :24], np.diag([0.9, 0.9, 0.9, 1]))
    count = SEGMENTED[name].images
    if isinstance(count, int):
        paths = []
        for index in range(count):
            paths.append(folder / f"scan_{index}.nii.gz")
            turned = np.roll(np.asanyarray(scan.dataobj), 3 * index, axis=0)
            nib.save(nib.Nifti1Image(turned, scan.affine), paths[-1])
        return {"image": list(map(str, paths))}
    nib.save(scan, folder / "scan.nii.gz")
    return {key: str(folder / "scan.nii.gz") for key in count}


@contextmanager
def zoo_parser(name: str, folder: Path, data: list[dict[str, Any]]) -> Iterator[ConfigParser]:
    """Copy a bundle, draw its weights where the config loads them, and give the parser of its inference config.

    Args:
        name: of the bundle.
        folder: for the copy; made on the first call.
        data: what `dataset` lists.
    """
    bundle = SEGMENTED[name]
    if not folder.is_dir():
        shutil.copytree(ZOO / name.partition(":")[0], folder)
    (path,) = (folder / "configs").glob(f"{bundle.config}.[jy]*")
    parser = ConfigParser()
    parser.read_config(str(path))
    if bundle.without:
        del parser.config["network_def"][bundle.without]
    parser.update({
        "bundle_root": str(folder), "dataset_dir": str(folder.parent / "case"),
        "device": "$torch.device('cpu')", "dataset::data": data,
        "dataloader::num_workers": 0, "dataloader::shuffle": False, **bundle.overrides,
    })  # fmt: skip
    if bundle.window is not None:
        parser.update({"inferer::roi_size": list(bundle.window), "inferer::sw_batch_size": 1})
    known = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        _draw_weights(parser, folder)
        yield parser
    finally:
        sys.path.remove(str(folder))
        for module in set(sys.modules) - known:
            if module.partition(".")[0] == "scripts":
                del sys.modules[module]


def _draw_weights(parser: ConfigParser, folder: Path) -> None:
    entries = [parser.config.get("checkpointloader"), *parser.config.get("handlers", [])]
    (loader,) = (one for one in entries if isinstance(one, dict) and one.get("_target_") == "CheckpointLoader")
    where = ConfigParser(parser.config)
    where["load_path"] = loader["load_path"]
    path = Path(where.get_parsed_content("load_path"))
    if path.is_file():
        return
    torch.manual_seed(7)
    network = where.get_parsed_content("network_def")
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(1.5)  # for logits that differ
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)

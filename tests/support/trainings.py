"""Labelled datasets of a few small phantoms, and bundles planned for them that train in seconds."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from support.command_line import run_inside, run_process
from tomoseg.bundle.metadata import Bundle
from tomoseg.data.datasets import Dataset, read_dataset
from tomoseg.data.inspection.training_checks import require_negatives, require_trainable
from tomoseg.planning.bundle_writer import plan
from tomoseg.planning.options import PlanningOptions

SHAPE = (22, 24, 18)
NAMES = {"Front": 1, "Back part": 2}
CT_BASE, CT_STEP = -1000.0, 1000.0


def phantom(seed: int, values: Sequence[int] = (1, 2), ct: bool = False) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a scan (I, J, K) and its label map: a ball for each label, one in front of the other."""
    rng = np.random.default_rng(seed)
    centre = np.array(SHAPE) / 2 + rng.uniform(-1.5, 1.5, 3)
    indices = np.moveaxis(np.indices(SHAPE), 0, -1)
    label = np.zeros(SHAPE, np.uint8)
    for value, offset in zip(values, (4.5, -4.5), strict=True):
        label[np.linalg.norm(indices - centre - (0, offset, 0), axis=-1) < 4] = value
    image = rng.normal(0, 0.15, SHAPE) + np.searchsorted(sorted(values), label, side="right") * (label > 0)
    if ct:
        image = CT_BASE + CT_STEP * image
    return image.astype(np.float32), label


def write_dataset(
    root: Path,
    cases: int = 6,
    *,
    layout: str = "msd",
    names: dict[str, int] = NAMES,
    modality: str = "MRI",
    partial: bool = False,
    ignore: bool = False,
    validation: int = 0,
) -> Path:
    """Write a dataset as the Decathlon ("msd") or nnU-Net ("nnunet") lays it out, or as plain folders ("plain").

    With `partial`, every second case has the first label only; with `ignore`, a corner of each label map is ignored.
    """
    folders = ("images", "labels") if layout == "plain" else ("imagesTr", "labelsTr")
    image_ending = "_0000.nii.gz" if layout == "nnunet" else ".nii.gz"
    label_ending = "_seg.nii.gz" if layout == "plain" else ".nii.gz"
    listed: list[dict[str, Any]] = []
    declared = dict(names)
    if ignore:
        declared["ignore"] = max(names.values()) + 1
    for folder in folders:
        (root / folder).mkdir(parents=True)
    for case in range(cases + validation):
        image, label = phantom(case, list(names.values()), ct=modality == "CT")
        entry: dict[str, Any] = {}
        if partial:
            entry["annotated"] = list(names)[: 1 + (case + 1) % 2]
            label[~np.isin(label, [names[name] for name in entry["annotated"]])] = 0
        if ignore:
            label[:6, :6, :6] = declared["ignore"]
        stem = f"case_{case:02}"
        for folder, ending, array in zip(folders, (image_ending, label_ending), (image, label), strict=True):
            nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 1.0, 1.0])), root / folder / f"{stem}{ending}")
        entry |= {"image": f"{folders[0]}/{stem}{image_ending}", "label": f"{folders[1]}/{stem}{label_ending}"}
        listed.append(entry)
    if layout == "msd":
        content: dict[str, Any] = {
            "name": "Phantoms",
            "modality": {"0": modality},
            "labels": {"0": "background", **{str(value): name for name, value in declared.items()}},
            "training": listed[:cases],
            "validation": listed[cases:],
        }
    else:
        content = {"channel_names": {"0": modality}, "labels": {"background": 0, **declared}, "file_ending": ".nii.gz"}
    if layout != "plain":
        (root / "dataset.json").write_text(json.dumps(content))
    return root


def remove_scans(root: Path) -> Path:
    """Leave nothing but the label maps of a dataset."""
    for folder in ("images", "imagesTr"):
        shutil.rmtree(root / folder, ignore_errors=True)
    path = root / "dataset.json"
    if path.exists():
        content = json.loads(path.read_text())
        for part in ("training", "validation"):
            for entry in content.get(part, []):
                del entry["image"]
        path.write_text(json.dumps(content))
    return root


def tiny_bundle(dataset: Path, folder: Path, steps: int = 3, synthetic: float | None = None) -> Path:
    """Plan a bundle, then take a network of a few features, and epochs of a few steps."""
    plan(dataset, folder, PlanningOptions(4 * 10**9, "cpu", "small", synthetic=synthetic))
    for name in ("train", "evaluate", "inference"):
        path = folder / "configs" / f"{name}.json"
        config = json.loads(path.read_text())
        config["network_def"]["filters"] = [4] * len(config["network_def"]["strides"])
        if name == "train":
            config |= {"steps": steps, "val_interval": 2, "num_workers": 0}
        path.write_text(json.dumps(config, indent=4))
    return folder


def check_data(folder: Path) -> Dataset:
    """Return a dataset that a training can use."""
    return require_trainable(read_dataset(folder))


def check_negatives(folder: Path, bundle: Bundle) -> tuple[Path, ...]:
    """Return scans without any label that a training of a bundle can use."""
    return require_negatives(folder, bundle.modality, bundle.input_channels)


def tomoseg(*arguments: str | Path, folder: Path | None = None, **environment: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line, in a process of its own where it needs variables."""
    if environment:
        return run_process(*arguments, cwd=folder, **environment)
    return run_inside(*arguments, cwd=folder)


def load(path: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return weights


def same(one: Path, other: Path) -> bool:
    """Return whether two checkpoints hold the same weights, bit for bit."""
    first, second = load(one), load(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)

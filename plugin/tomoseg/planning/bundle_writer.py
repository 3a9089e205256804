"""From a labelled dataset to a MONAI bundle that can be trained on it."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from tomoseg.bundle.card import EMPTY_ACCURACY
from tomoseg.bundle.configs import SAFE_NAME, as_text
from tomoseg.bundle.folder import new_bundle, require_free, require_safe_names
from tomoseg.bundle.planned import PLAN, PlannedBundle
from tomoseg.core.errors import DatasetError, UsageError
from tomoseg.data.datasets import DESCRIPTION, PARTS, Dataset, read_dataset, read_description
from tomoseg.data.inspection.scan import OnScan
from tomoseg.data.inspection.training_checks import require_trainable, trainable_labels
from tomoseg.data.labels import find_ignored
from tomoseg.data.read import read_volume
from tomoseg.planning.fingerprint import Fingerprint, take_fingerprint
from tomoseg.planning.imbalance import DEFAULT_IMBALANCE, Imbalance
from tomoseg.planning.inference_config import evaluate_config, inference_config
from tomoseg.planning.layout import find_layout
from tomoseg.planning.metadata import make_metadata
from tomoseg.planning.presets import Budget
from tomoseg.planning.rules import TrainingPlan, decide
from tomoseg.planning.semi_supervised_config import semi_supervised_config
from tomoseg.planning.synthesis import require_drawable
from tomoseg.planning.template import render, render_config
from tomoseg.planning.train_config import train_config

MAX_AIR_HU = -500  # an image whose voxels go below that, in Hounsfield units


def plan_bundle(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    budget: Budget,
    modality: str | None = None,
    *,
    imbalance: Imbalance = DEFAULT_IMBALANCE,
    synthetic: float | None = None,
    overwrite: bool = False,
    on_scan: OnScan | None = None,
) -> TrainingPlan:
    """Check a labelled dataset, decide how to train on it, and write the bundle; the same data give the same bundle.

    Args:
        folder: the dataset: of the Decathlon, of nnU-Net, or folders `images` and `labels`.
        output: the bundle's folder, which is made.
        budget: what the training may use.
        modality: "CT" or "MR"; None for what the dataset says, or looks like.
        imbalance: loss and sampling for rare labels.
        synthetic: share of the training images that is drawn from the label maps; None for scans only.
        overwrite: replace the configs and docs of a bundle that is there; its weights are left alone.
        on_scan: called with the path of each scan before it is read.

    Raises:
        UsageError: the folder is no dataset, or the output cannot be.
        DatasetError: the dataset has errors.
        OutputError: the bundle cannot be written.
    """
    target = Path(output)
    name = require_free(target, overwrite)
    dataset = require_trainable(read_dataset(folder), scans=synthetic is None, on_scan=on_scan)
    if synthetic is not None:
        require_drawable(dataset, synthetic)
    layout = find_layout(dataset, _lists_pairs(dataset))
    if dataset.unlisted and not layout.listed:  # the config would find them by their names
        first = dataset.unlisted[0].relative_to(dataset.root)
        raise DatasetError(f"{dataset.root}: {first} is not listed in {DESCRIPTION}. List it, or move it away.")
    names = trainable_labels(dataset)
    require_safe_names(names.values(), str(dataset.root))
    fingerprint = take_fingerprint(dataset, names, on_scan)
    kind, guessed = _choose_modality(modality, dataset)
    if kind == "CT" and len(dataset.channels) > 1:
        raise UsageError(
            f"{dataset.root}: expected one channel in CT, got {len(dataset.channels)} "
            f"({', '.join(dataset.channels)}); several are planned for MRI only"
        )
    plan = decide(fingerprint, kind, budget, find_ignored(dataset.label_names), imbalance, synthetic)
    plan = replace(plan, labels=dict(enumerate(names.values(), start=1)), guessed=guessed)
    title, source = _describe(dataset)
    dataset_name = dataset.root.resolve().name if SAFE_NAME.fullmatch(dataset.root.resolve().name) else "dataset"
    arguments = (plan, layout, name, dataset_name)
    configs = {
        "metadata": make_metadata(plan, fingerprint, layout, title, source),
        "inference": inference_config(*arguments),
        "evaluate": evaluate_config(*arguments),
        "multi_gpu_evaluate": render_config("multi_gpu_evaluate"),
        "train": train_config(*arguments),
        "semi_supervised": semi_supervised_config(plan),
        "multi_gpu_train": render_config("multi_gpu_train"),
    }
    files = {f"configs/{stem}.json": as_text(content) for stem, content in configs.items()}
    files[PLAN] = _record(plan, fingerprint, budget).as_text()
    files["configs/logging.conf"] = render("logging.conf")
    files["docs/README.md"] = render(
        "card.md.jinja",
        plan=plan,
        fingerprint=fingerprint,
        budget=budget,
        layout=layout,
        name=name,
        title=title,
        source=source,
        accuracy=EMPTY_ACCURACY,
    )
    files["docs/data_license.txt"] = render("data_license.txt", title=title, source=source)
    files["LICENSE"] = render("bundle_license.txt")
    with new_bundle(target) as staging:
        for path, text in files.items():
            (staging / path).parent.mkdir(parents=True, exist_ok=True)
            (staging / path).write_text(text, encoding="utf-8")
    return plan


def _lists_pairs(dataset: Dataset) -> bool:
    """Return whether dataset.json lists the files as MONAI reads them; nnU-Net 1 leaves out the channels' numbers."""
    content = read_description(dataset.root / DESCRIPTION)
    cases = [case for part in PARTS for case in content.get(part) or []]
    images = [image for case in cases for image in np.atleast_1d(case.get("image") or case["label"])]
    named = {dataset.root / image for image in images}
    return bool(cases) and all(pair.image in named for pair in dataset.pairs)


def _describe(dataset: Dataset) -> tuple[str, str]:
    """Return what the dataset calls itself, and where it comes from."""
    content = read_description(dataset.root / DESCRIPTION)
    title = str(content.get("name") or dataset.root.resolve().name)
    parts = [content.get(key) for key in ("description", "reference", "licence", "license")]
    source = ". ".join(" ".join(str(part).split()) for part in parts if part)
    return " ".join(title.split()), source or "not said"


def _choose_modality(asked: str | None, dataset: Dataset) -> tuple[str, bool]:
    """Return "CT" or "MR" by the option, the dataset or the values; and whether by the values."""
    if asked is not None:
        if asked.upper() not in ("CT", "MR", "MRI"):
            raise UsageError(f"modality: expected CT or MR, got {asked}")
        return "CT" if asked.upper() == "CT" else "MR", False
    if dataset.modality is not None:
        return "CT" if dataset.modality == "CT" else "MR", False
    if len(dataset.channels) > 1:
        return "CT" if "CT" in map(str.upper, dataset.channels) else "MR", False
    if not dataset.has_scans:
        return "MR", False
    return "CT" if read_volume(dataset.pairs[0].image).array.min() < MAX_AIR_HU else "MR", True


def _record(plan: TrainingPlan, fingerprint: Fingerprint, budget: Budget) -> PlannedBundle:
    names = {label.value: label.name for label in fingerprint.labels}
    return PlannedBundle(
        budget={"memory_bytes": budget.memory, "device": budget.device, "preset": budget.preset},
        modality=plan.modality,
        choices={name: {"value": value, "reason": plan.reasons[name]} for name, value in plan.choices().items()},
        dataset_labels={str(value): {"dataset": names[value], "bundle": names[value]} for value in names},
        training_bytes=plan.network.training_bytes(plan.patch, plan.batch),
        fingerprint=fingerprint.as_json(),
    )

"""From a labelled dataset to a MONAI bundle that can be trained on it: the function behind `tomoseg plan`."""

import os
from collections.abc import Callable
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
from tomoseg.data.inspection.training_checks import find_copies, require_trainable, trainable_labels
from tomoseg.data.label_names import parse_labels
from tomoseg.data.labels import find_ignored
from tomoseg.data.read import read_volume
from tomoseg.planning.configs import make_configs
from tomoseg.planning.fingerprint import Fingerprint, take_fingerprint
from tomoseg.planning.layout import find_layout
from tomoseg.planning.metadata import make_metadata
from tomoseg.planning.options import PlanningOptions
from tomoseg.planning.rules import TrainingPlan, decide
from tomoseg.planning.synthesis import require_drawable
from tomoseg.planning.template import render

MAX_AIR_HU = -500  # an image whose voxels go below that, in Hounsfield units


def plan(
    dataset: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: PlanningOptions | None = None,
    *,
    on_scan: OnScan | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> TrainingPlan:
    """Make a MONAI bundle that can be trained on a labelled dataset, each choice with its reason.

    Args:
        dataset: folder of the Decathlon, of nnU-Net, or with folders `images` and `labels`; label maps alone
            are enough where the options have `synthetic=1`.
        output: the bundle's folder, which is made.
        options: options of the plan.
        on_scan: called with the path of each scan before it is read.
        on_warning: called with each warning.

    Returns:
        The choices and their reasons, as configs/plan.json holds them.

    Raises:
        UsageError: the folder is no dataset, or the output cannot be.
        DatasetError: the dataset has errors.
        OutputError: the bundle cannot be written.

    Example:
        >>> import tomoseg
        >>> made = tomoseg.plan("dataset", "my_bundle", tomoseg.PlanningOptions(device="cpu", preset="small"))
        >>> made.modality, made.labels
        ('MR', {1: 'Front', 2: 'Back part'})
    """
    options = options or PlanningOptions()
    target = Path(output)
    name = require_free(target, options.overwrite)
    data = require_trainable(
        _named(read_dataset(dataset), options.label_names), scans=options.synthetic is None, on_scan=on_scan
    )
    if on_warning is not None:
        for line in find_copies(reversed(data.pairs), data.pairs):
            on_warning(line)
    if options.synthetic is not None:
        require_drawable(data, options.synthetic)
    layout = find_layout(data, _lists_pairs(data))
    if data.unlisted and not layout.listed:  # the config would find them by their names
        first = data.unlisted[0].relative_to(data.root)
        raise DatasetError(f"{data.root}: {first} is not listed in {DESCRIPTION}. List it, or move it away.")
    names = trainable_labels(data)
    require_safe_names(names.values(), str(data.root))
    fingerprint = take_fingerprint(data, names, on_scan)
    kind, guessed = _choose_modality(options.modality, data)
    if kind == "CT" and len(data.channels) > 1:
        raise UsageError(
            f"{data.root}: expected one channel in CT, got {len(data.channels)} "
            f"({', '.join(data.channels)}); several are planned for MRI only"
        )
    made = replace(decide(fingerprint, kind, options, find_ignored(data.label_names)), guessed=guessed)
    title, source = _describe(data)
    dataset_name = data.root.resolve().name if SAFE_NAME.fullmatch(data.root.resolve().name) else "dataset"
    metadata = make_metadata(made, fingerprint, layout, title, source)
    configs = {"metadata": metadata, **make_configs(made, layout, name, dataset_name)}
    files = {f"configs/{stem}.json": as_text(content) for stem, content in configs.items()}
    files[PLAN] = _record(made, fingerprint, options).as_text()
    files["configs/logging.conf"] = render("logging.conf")
    files["docs/README.md"] = render(
        "card.md.jinja",
        plan=made,
        fingerprint=fingerprint,
        options=options,
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
    return made


def _named(dataset: Dataset, names: str | None) -> Dataset:
    """Return a dataset with the names that the user gives its labels."""
    if names is None:
        return dataset
    if dataset.label_names:
        raise UsageError(f"label names: {dataset.root / DESCRIPTION} has them. Leave out --label-names")
    return replace(dataset, label_names=parse_labels(names, "label names"))


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


def _record(plan: TrainingPlan, fingerprint: Fingerprint, options: PlanningOptions) -> PlannedBundle:
    names = {label.value: label.name for label in fingerprint.labels}
    return PlannedBundle(
        budget={"memory_bytes": options.memory_bytes, "device": options.trained_on, "preset": options.preset},
        modality=plan.modality,
        choices={name: {"value": value, "reason": plan.reasons[name]} for name, value in plan.choices().items()},
        dataset_labels={str(value): {"dataset": names[value], "bundle": names[value]} for value in names},
        ignored=plan.ignored,
        training_bytes=plan.network.training_bytes(plan.patch, plan.batch),
        fingerprint=fingerprint.as_json(),
    )

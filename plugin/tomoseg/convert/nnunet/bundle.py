"""From a trained nnU-Net to a MONAI bundle."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tomoseg.bundle.configs import Json, as_text
from tomoseg.bundle.ensemble import ensemble_config
from tomoseg.bundle.folder import new_bundle, require_free, require_safe_names
from tomoseg.bundle.metadata import Bundle
from tomoseg.convert.nnunet.checkpoint import Checkpoint, read_checkpoint
from tomoseg.convert.nnunet.entry import Entry, read_entry
from tomoseg.convert.nnunet.labels import ModelLabels, read_channels, read_labels
from tomoseg.convert.nnunet.network import TEMPLATES, convert_weights, network_config
from tomoseg.convert.nnunet.plans import Plans, read_plans
from tomoseg.convert.nnunet.postprocessing import postprocessing_steps
from tomoseg.convert.nnunet.source import DATASET, PLANS, TrainedModel, open_model
from tomoseg.core.errors import UsageError
from tomoseg.core.files import sha256
from tomoseg.core.tables import read_rows
from tomoseg.inference.checkpoints import save_weights
from tomoseg.inference.config import InferenceConfig
from tomoseg.planning.layout import Layout
from tomoseg.planning.metadata import describe_bundle
from tomoseg.planning.template import render, render_config

AXCODES = re.compile(r"(?=.*[RL])(?=.*[AP])(?=.*[SI])[RLAPSI]{3}")
AS_IN_FILE = "file"
UNKNOWN = "unknown"
MR = re.compile(r"\b(mri?|t1|t2|flair|adc|dwi|swi|pd)", re.IGNORECASE)
# TotalSegmentator's tasks whose weights need a licence, with a pattern of the name of the dataset that a model was
# trained on; from its public tables `map_tasks_config.py` and `map_to_binary.py`, as of November 2026
RESTRICTED = read_rows(__package__, "restricted_models.csv")


@dataclass(frozen=True)
class ImportedModel:
    """Result of an import.

    Attributes:
        title: name of the dataset that it was trained on.
        network: class of the network in the config.
        folds: names of the folds, with one checkpoint each.
        labels: names by value.
        notes: what a user should know.
    """

    title: str
    network: str
    folds: tuple[str, ...]
    labels: dict[int, str]
    notes: tuple[str, ...]


def import_nnunet(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    configuration: str | None = None,
    folds: Sequence[str] | None = None,
    checkpoint: str = "final",
    axcodes: str | None = None,
    overwrite: bool = False,
    on_step: Callable[[str], None] | None = None,
) -> ImportedModel:
    """Write a trained nnU-Net 2 as a MONAI bundle, without nnU-Net and without running anything of the model.

    Args:
        model: a results folder TRAINER__PLANS__CONFIGURATION, a folder of several, or a ZIP of these.
        output: the bundle's folder, which is made.
        configuration: which of several, such as "3d_fullres".
        folds: such as "0"; by default all that there are.
        checkpoint: "final" or "best".
        axcodes: orientation that the network expects, such as "RAS"; "file" for that of each file. By default RAS
            where nnU-Net turns scans to it, else "file", as nnU-Net does.
        overwrite: replace a bundle that is there.
        on_step: gets a line about each step.

    Returns:
        The new bundle.

    Raises:
        UsageError: there is no such model, or the bundle cannot be written there.
        BundleError: the model is damaged, contradicts itself, or cannot be run here.
        DatasetError: a label's name cannot be that of a bundle.
        MissingPackageError: its network needs a package that is not installed.
        OutputError: the bundle cannot be written.

    Example:
        >>> import_nnunet("nnUNetTrainer__nnUNetPlans__3d_fullres", "liver").labels
        {1: 'liver', 2: 'tumour'}
    """
    target, say = Path(output), on_step or (lambda _: None)
    name = require_free(target, overwrite)
    if axcodes not in (None, AS_IN_FILE) and not AXCODES.fullmatch(axcodes):
        raise UsageError(f"--axcodes: expected {AS_IN_FILE} or three letters such as RAS, got {axcodes!r}")
    say("reading the model")
    with open_model(Path(model), configuration) as trained:
        dataset, written = read_entry(trained.folder / DATASET), read_entry(trained.folder / PLANS)
        plans, labels = read_plans(written, trained.configuration), read_labels(dataset)
        require_safe_names(labels.names.values(), f"{trained.title}: {DATASET}")
        channels = read_channels(dataset, len(plans.channels))
        paths = trained.checkpoints(folds, checkpoint)
        files = {path: "model.pt" if len(paths) == 1 else f"{path.parent.name}.pt" for path in paths}
        axes = axcodes or plans.axcodes or AS_IN_FILE
        with new_bundle(target) as staging:
            (staging / "models").mkdir()
            network: Json = {}
            for path, file in files.items():
                say(f"converting {path.parent.name}")
                first = read_checkpoint(path)
                network = network or network_config(plans, labels.heads, first.weights)
                save_weights(staging / "models" / file, convert_weights(plans, network, first.weights, str(path)))
            steps = [] if (record := trained.postprocessing()) is None else postprocessing_steps(record)
            config = _inference_config(plans, labels, network, first, name, None if axes == AS_IN_FILE else axes, steps)
            config = config if len(files) == 1 else ensemble_config(config, list(files.values()))
            facts = _facts(trained, written, dataset, first, files, axes)
            metadata = _metadata(plans, labels, channels, facts)
            described = {"facts": facts, "plans": plans, "labels": labels, "name": name, "network": network["_target_"]}
            _write_texts(staging, config, metadata, **described)
            say("loading the bundle")
            # nothing in it is the model's own text; its weights must fit its network
            _ = InferenceConfig(Bundle(name, staging, trusted=True)).networks
    notes = _notes(facts, axes, axcodes, plans)
    return ImportedModel(facts["dataset"], network["_target_"], tuple(facts["folds"]), labels.names, notes)


def _inference_config(
    plans: Plans,
    labels: ModelLabels,
    network: Json,
    checkpoint: Checkpoint,
    name: str,
    axcodes: str | None,
    steps: list[Json],
) -> Json:
    mirror = [axis for axis, theirs in enumerate(plans.axes) if theirs in checkpoint.mirror_axes]
    config = render_config(
        "nnunet_inference",
        TEMPLATES,
        network=network,
        mirror_axes=mirror,
        region_values=labels.region_values,
        steps=steps,
        name=name,
        dataset="scans",
        datalist=Layout(False, files=len(plans.channels)).datalist,
        axcodes=axcodes,
        spacing=plans.along_file(plans.spacing),
        channels=plans.channels,
        masked=[index for index, one in enumerate(plans.channels) if one.in_mask],
        parts=[f"image_{index}" for index in range(len(plans.channels))],
        resampling=plans.resampling,
        window=plans.along_file(plans.patch),
    )
    return config | {"nnunet_windows": True} | ({"tta": True} if mirror else {})


def _facts(
    trained: TrainedModel, plans: Entry, dataset: Entry, checkpoint: Checkpoint, files: dict[Path, str], axcodes: str
) -> dict[str, Any]:
    """Return where the bundle comes from, as its metadata records it."""
    return {
        "dataset": _text(plans, "dataset_name", trained.folder.parent.name),
        "description": _text(dataset, "description", ""),
        "reference": _text(dataset, "reference", UNKNOWN),
        "licence": _text(dataset, "licence", _text(dataset, "license", UNKNOWN)),
        "trainer": plain_text(checkpoint.trainer),
        "configuration": plain_text(trained.configuration),
        "axcodes": axcodes,
        "folds": [path.parent.name.removeprefix("fold_") for path in files],
        "checkpoints": {path.parent.name: sha256(path) for path in files},
        "date": datetime.now(UTC).date().isoformat(),
    }


def _text(entry: Entry, key: str, default: str) -> str:
    found = plain_text(str(entry[key].value)) if key in entry else ""
    return found or plain_text(default)


def plain_text(text: str) -> str:
    """Return a stranger's text as one printable line in which MONAI finds no expression, reference or macro."""
    line = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[:1000]
    return line.translate(str.maketrans("$@%#", "＄＠％＃"))  # noqa: RUF001


def _metadata(plans: Plans, labels: ModelLabels, channels: list[str], facts: dict[str, Any]) -> Json:
    names = [plain_text(channel) for channel in channels]
    ct = any(channel.scheme == "CTNormalization" for channel in plans.channels) or "CT" in map(str.upper, names)
    modality = "CT" if ct else "MR" if any(map(MR.search, names)) else names[0]
    patch = plans.along_file(plans.patch)
    metadata = describe_bundle(labels.names, patch, modality, names, facts["dataset"])
    metadata["network_data_format"]["outputs"]["pred"]["num_channels"] = labels.heads
    return metadata | {
        "changelog": {metadata["version"]: "imported from nnU-Net by tomoseg"},
        "authors": UNKNOWN,
        "copyright": f"licence of the weights: {facts['licence']}",
        "data_source": f"{facts['dataset']}. Reference: {facts['reference']}",
        "imported_from": {"framework": "nnU-Net 2", **facts},
    }


def _write_texts(staging: Path, config: Json, metadata: Json, **values: Any) -> None:
    """Write configs, card and licence."""
    texts = {
        "configs/inference.json": as_text(config),
        "configs/metadata.json": as_text(metadata),
        "configs/logging.conf": render("logging.conf"),
        "docs/README.md": render("card.md.jinja", TEMPLATES, metadata=metadata, **values),
        "LICENSE": render("licence.txt.jinja", TEMPLATES, metadata=metadata, **values),
    }
    for path, text in texts.items():
        (staging / path).parent.mkdir(exist_ok=True)
        (staging / path).write_text(text, encoding="utf-8")


def _notes(facts: dict[str, Any], axes: str, asked: str | None, plans: Plans) -> tuple[str, ...]:
    notes = []
    if axes == AS_IN_FILE and asked is None:
        notes.append(
            "nnU-Net takes scans in the orientation of their files, and so does the bundle: scans that lie otherwise "
            "than those that it was trained on get wrong labels. Where these were all RAS, say --axcodes RAS"
        )
    if facts["licence"] == UNKNOWN:
        notes.append("the model does not say under which licence its weights are; ask those who made it")
    if task := restricted_task(facts["dataset"]):
        notes.append(f"looks like TotalSegmentator's {task!r}, whose weights need a licence; see its documentation")
    return tuple(notes)


def restricted_task(dataset: str) -> str | None:
    """Return the task of TotalSegmentator that a dataset's name stands for and that needs a licence, if any."""
    return next((row["task"] for row in RESTRICTED if re.search(row["dataset"], dataset, re.IGNORECASE)), None)

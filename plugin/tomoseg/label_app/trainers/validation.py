"""New weights compared with those in use, on labelled images that no version is trained on."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.metrics import DiceMetric
from monailabel.interfaces.datastore import Datastore

from tomoseg.bundle.options import RunOptions
from tomoseg.core.errors import TomosegError, one_line
from tomoseg.data.label_mapping import LabelMapping
from tomoseg.data.read import read_volume
from tomoseg.inference.segmenter import Segmenter
from tomoseg.label_app.model import ServedModel
from tomoseg.label_app.trainers.training_cases import TrainingCase
from tomoseg.label_app.versions import Version

HELD_OUT = 5  # one in so many patients
MIN_HELD_OUT = 5  # labelled images; on fewer the Dice is mostly chance
UNKNOWN_PATIENT = "UNK"  # as MONAI Label has it


def is_held_out(datastore: Datastore, image_id: str) -> bool:
    """Return whether an image is never trained on; so are all of its patient, where that is known."""
    patient = str(datastore.get_image_info(image_id).get("PatientID") or UNKNOWN_PATIENT)
    name = image_id if patient == UNKNOWN_PATIENT else patient
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT == 0


def compare(
    model: ServedModel, state: dict[str, torch.Tensor], cases: Sequence[TrainingCase], device: str, folder: Path
) -> dict[str, Any]:
    """Return the mean Dice of new weights and of those in use, as facts of a version.

    Args:
        model: the bundle.
        state: the new weights.
        cases: that are held out.
        device: where the network runs.
        folder: for the new weights, while they are measured.

    Returns:
        "held_out" and both; or "validation", why there are no two to compare.
    """
    images = len({case.image_id for case in cases})
    if images < MIN_HELD_OUT:
        return {"validation": f"not validated, for only {images} of {MIN_HELD_OUT} labelled images are held out"}
    torch.save(state, new := folder / "new.pt")
    versions = {"dice": Version(-1, new, {}), "dice_before": model.weights.current}
    try:
        found = {name: round(measure_dice(model, version, cases, device), 4) for name, version in versions.items()}
    except (TomosegError, MemoryError, RuntimeError) as error:  # a training is not lost by it
        return {"held_out": images, "validation": f"not validated, for the comparison failed: {one_line(error)}"}
    return {"held_out": images, **found}


def measure_dice(model: ServedModel, version: Version, cases: Sequence[TrainingCase], device: str) -> float:
    """Return the mean Dice of a version of the weights, by MONAI, over the labels and the cases."""
    weights = (str(version.checkpoint),) if version.checkpoint else ()
    segmenter = Segmenter(model.bundle, RunOptions(device=device, backend="torch", checkpoints=weights))
    numbers = LabelMapping({value: number for number, value in enumerate(model.labels.values, 1)}, keep_others=False)
    metric = DiceMetric(include_background=False, ignore_empty=False, num_classes=len(model.labels.values) + 1)
    for case in cases:
        found = segmenter.predict(segmenter.prepare(read_volume(case.image), as_it_is=True)).labels
        drawn = np.rint(read_volume(case.label).array).astype(found.dtype)
        metric(*(torch.from_numpy(numbers.apply(one).astype(np.int64))[None, None] for one in (found, drawn)))
    return float(metric.aggregate())

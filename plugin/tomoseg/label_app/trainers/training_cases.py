"""What annotators have labelled, as pairs of files that a bundle's train config reads."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoseg.core.errors import TomosegError, UsageError, one_line
from tomoseg.data.label_mapping import LabelMapping
from tomoseg.data.nifti import write_label_map, write_map
from tomoseg.data.read import read_volume
from tomoseg.inference.localisation.locator import Locator
from tomoseg.label_app.datastore.annotation import read_annotation
from tomoseg.label_app.served_labels import ServedLabels
from tomoseg.label_app.trainers.training_crops import cut_crops


@dataclass(frozen=True)
class TrainingCase:
    """One annotated image, or one structure of it: two NIfTI files on one grid.

    Args:
        image: the file of the image.
        label: that of its labels, with the values of the bundle's own channels.
        image_id: what the studies call the image that it is, or is a part of.
    """

    image: Path
    label: Path
    image_id: str


@dataclass(frozen=True)
class Annotated:
    """An image of the studies and its label, as they lie there.

    Args:
        image_id: what the studies call it.
        image, label: files.
        label_info: names of the label's values; None if nobody gave them, and they are the served numbers.
    """

    image_id: str
    image: Path
    label: Path
    label_info: Sequence[Mapping[str, Any]] | None


def prepare_cases(
    annotated: Iterable[Annotated], labels: ServedLabels, locator: Locator, folder: Path
) -> tuple[list[TrainingCase], list[str]]:
    """Write pairs for training into a folder; an unreadable pair is left out and told.

    Args:
        annotated: what there is.
        labels: of the bundle; values of others become background.
        locator: of the bundle; a whole scan becomes a pair for each structure that has labels.
        folder: for the files, which have names that no config misreads.

    Returns:
        The pairs, and a line for each that was left out.

    Raises:
        UsageError: none is left.
        OutputError: the folder cannot be written to.
    """
    cases: list[TrainingCase] = []
    errors: list[str] = []
    for number, pair in enumerate(annotated):
        try:
            cases += _prepare(pair, labels, locator, folder / f"{number:05}")
        except (TomosegError, MemoryError) as error:
            errors.append(f"{pair.image_id}: left out: {one_line(error)}")
    if not cases:
        raise UsageError(f"expected annotated images to train with, got none; annotate some first. {'; '.join(errors)}")
    return cases, errors


def _prepare(pair: Annotated, labels: ServedLabels, locator: Locator, stem: Path) -> list[TrainingCase]:
    image = read_volume(pair.image)
    annotation = read_annotation(pair.label, image, pair.label_info)
    values = _bundle_values(annotation.labels, annotation.names or {v: n for n, v in labels.ids.items()}, labels)
    if not values.any():
        raise UsageError(f"expected some of the labels {', '.join(labels.ids)}, got none of them")
    located = locator.locate(image)
    if located is None or locator.localisation is None:
        crops = [(image, values)]
    else:
        crops = list(cut_crops(values, located, locator.localisation))  # all of a scan or nothing
    cases = []
    for number, (crop, found) in enumerate(crops):
        image_file, label_file = (stem.with_name(f"{stem.name}_{number}_{kind}.nii.gz") for kind in ("image", "label"))
        write_map(image_file, crop.array, crop.grid, crop.header)
        write_label_map(label_file, found, crop.grid, crop.header)
        cases.append(TrainingCase(image_file, label_file, pair.image_id))
    return cases


def _bundle_values(found: NDArray[np.uint16], names: dict[int, str], labels: ServedLabels) -> NDArray[Any]:
    """Return labels (I, J, K) with the values that the bundle has for these names, 0 for names that it has not."""
    known = labels.bundle_values
    numbers = {value: known[name] for value, name in names.items() if name in known}
    values = LabelMapping.of(numbers, keep_others=False).apply(found)
    return values.astype(np.uint8) if max(labels.values, default=0) <= 255 else values

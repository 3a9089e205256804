"""The labels of a result, and one by one, as the formats need them that name each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tomoseg.core.errors import OutputError
from tomoseg.data.geometry import Box, Grid
from tomoseg.data.labels import Label
from tomoseg.data.volume import DicomSeries, by


@dataclass(frozen=True)
class Predecessor:
    """A DICOM result that another one takes the place of: its SOP class, and its SOP instance and series by UID."""

    sop_class: str
    instance: str
    series: str


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Labels with everything that a format may store of them; a `Segmentation` is one.

    Attributes:
        labels: (I, J, K) uint8 or uint16; (label, I, J, K) of 0 and 1 if labels may overlap, numbered from 1.
        grid: the scan's.
        label_table: a label for every value, background left out.
        algorithm, version: what found the labels.
        header: the scan's NIfTI header, if it had one.
        series: the DICOM series that the scan was read from, if any.
        expected_dice: what to say of how good a label is, by its value.
        person: who drew or corrected the labels, empty for someone unknown; None where the algorithm alone did.
        origin: a text that stands for all besides the scan that decided the labels. UIDs of DICOM results follow from
            it and the scan, so that the same result has the same UIDs; without it, each file has new ones.
        earlier: number of results of the series before this one, for a series number of its own.
        replaces: DICOM results that this one takes the place of.
    """

    labels: NDArray[np.unsignedinteger[Any]]
    grid: Grid
    label_table: tuple[Label, ...]
    algorithm: str
    version: str
    header: nib.Nifti1Header | None = None
    series: DicomSeries | None = None
    person: str | None = None
    expected_dice: Mapping[int, object] = field(default_factory=dict)
    origin: str = ""
    earlier: int = 0
    replaces: tuple[Predecessor, ...] = ()

    @property
    def calibrated_dice(self) -> dict[int, float]:
        """The Dice that each label likely has, by its value, where cases with references have shown it."""
        return {}


@dataclass(frozen=True)
class Segment:
    """A label, and the box of voxels (I, J, K) that holds all of it; None if it does not occur."""

    label: Label
    box: Box | None


def find_segments(
    path: Path, labels: NDArray[np.unsignedinteger[Any]], shape: tuple[int, int, int], table: Sequence[Label]
) -> list[Segment]:
    """Return the labels of the table by value, and where each of them lies.

    Args:
        path: what errors name.
        labels: (I, J, K), or (label, I, J, K) of 0 and 1 where labels may overlap, numbered from 1.
        shape: of the scan, (I, J, K).
        table: a label for every value; some may not occur.

    Raises:
        OutputError: the shapes differ, or a value is in no label or in two.
    """
    if labels.ndim not in (3, 4) or labels.shape[-3:] != shape:
        raise OutputError(f"{path}: expected labels on the scan's grid of {by(shape)}, got {by(labels.shape)}")
    boxes = find_boxes(labels)
    values = [label.value for label in table]
    unknown = sorted(set(boxes) - set(values))
    if unknown or len(set(values)) < len(values) or not values:
        raise OutputError(
            f"{path}: expected one label for each value that occurs, got labels {sorted(values)} "
            f"and values {sorted(boxes)}"
        )
    return [Segment(label, boxes.get(label.value)) for label in sorted(table, key=lambda label: label.value)]


def find_boxes(labels: NDArray[np.unsignedinteger[Any]]) -> dict[int, Box]:
    """Return the box of each label that occurs; the labels are (I, J, K) or (label, I, J, K), as for `mask_of`."""
    if labels.ndim == 4:
        found = [(ndimage.find_objects(mask.T, 1) or [None])[0] for mask in labels]
    else:
        found = ndimage.find_objects(labels.T)  # what the readers return lies in memory in this order
    return {value: (box[2], box[1], box[0]) for value, box in enumerate(found, start=1) if box is not None}


def mask_of(labels: NDArray[np.unsignedinteger[Any]], value: int, box: Box) -> NDArray[np.bool_]:
    """Return where one label lies within a box, (I, J, K); labels that may overlap are (label, I, J, K)."""
    if labels.ndim == 4:
        return np.asarray(labels[value - 1 : value, *box].any(axis=0))
    return np.asarray(labels[box] == value)

"""How a training draws images from label maps: their share, the sides that a mirror exchanges, their places."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tomoseg.core.errors import UsageError
from tomoseg.data.datasets import Dataset
from tomoseg.data.labels import split_side
from tomoseg.planning.fingerprint import Fingerprint, LabelPrint
from tomoseg.planning.network import triple

MAX_LABEL_VALUE = 2**15 - 1  # each value has a look, and label maps are cached as int16


@dataclass(frozen=True)
class Drawing:
    """How images are drawn from label maps.

    Attributes:
        share: of the training samples that are drawn, in (0, 1]; the others are scans.
        scans: whether the dataset has scans; they are validated on.
        pairs: left and right value of each structure, as the dataset has them.
        alone: the name of a label that has a side and no partner, which forbids mirrors; empty where there is none.
        translation_mm: by which windows are moved at most, along each axis.
    """

    share: float
    scans: bool
    pairs: tuple[tuple[int, int], ...]
    alone: str
    translation_mm: tuple[float, float, float]

    @property
    def mirror_prob(self) -> float:
        """Share of the drawn images in which left and right are exchanged."""
        return 0.0 if self.alone else 0.5

    @property
    def translations_mm(self) -> list[list[float]]:
        """Least and largest translation along each axis."""
        return [[-mm for mm in self.translation_mm], list(self.translation_mm)]


def require_drawable(dataset: Dataset, share: float) -> None:
    """Raise UsageError where images cannot be drawn from the label maps of a dataset, or not with this share."""
    if len(dataset.channels) > 1:
        raise UsageError(f"synthetic: {dataset.root} has {len(dataset.channels)} channels. Drawn images have one")
    if share < 1 and not dataset.has_scans:
        raise UsageError(f"synthetic: {dataset.root} has label maps only. Give 1, so that all images are drawn")
    if (highest := max(dataset.label_names)) > MAX_LABEL_VALUE:
        raise UsageError(
            f"synthetic: {dataset.root} has the label {highest}. Number the labels so that none is above "
            f"{MAX_LABEL_VALUE}"
        )


def choose_drawing(
    fingerprint: Fingerprint, share: float, window_mm: Sequence[float], moved_mm: Sequence[float]
) -> Drawing:
    """Return how images are drawn.

    Args:
        fingerprint: of the dataset.
        share: of the samples that are drawn.
        window_mm: edges of the window.
        moved_mm: by which windows that hold a whole scan are moved, along each axis.
    """
    pairs = find_pairs(fingerprint.labels)
    sided = {label.value for label in fingerprint.labels if split_side(label.name)[1]}
    sided |= {value for couple in fingerprint.opposite for value in couple}
    alone = sided - {value for pair in pairs for value in pair}
    places = zip(fingerprint.median_extent_mm, window_mm, moved_mm, strict=True)
    translation = triple(float(f"{max(moved, (extent - window) / 2):.4g}") for extent, window, moved in places)
    names = {label.value: label.name for label in fingerprint.labels}
    has_scans = not math.isnan(fingerprint.intensity_mean)
    return Drawing(share, has_scans, pairs, names[min(alone)] if alone else "", translation)


def find_pairs(labels: Sequence[LabelPrint]) -> tuple[tuple[int, int], ...]:
    """Return the left and the right value of each structure whose names differ in the side only."""
    values: dict[tuple[str, ...], dict[str, list[int]]] = {}
    for label in labels:
        words, sides = split_side(label.name)
        if len(sides) == 1:
            values.setdefault(words, {"left": [], "right": []})[sides.pop()].append(label.value)
    return tuple(
        (group["left"][0], group["right"][0])
        for group in values.values()
        if len(group["left"]) == len(group["right"]) == 1
    )

"""Dice of label maps in the scan's own grid, with labels that were not drawn left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tomoseg.bundle.metadata import Bundle
from tomoseg.data.datasets import Dataset, Pair
from tomoseg.data.inspection.fitness import trainable_labels
from tomoseg.data.labels import find_ignored
from tomoseg.data.read import read_volume

NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)  # MONAI's, too: voxels that share a face, an edge or a corner


def dice(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """Return 2 |A ∩ B| / (|A| + |B|); NaN where the reference is empty, as MONAI has it.

    Args:
        prediction, reference: of one shape.
    """
    if not reference.any():
        return math.nan
    both = int(np.count_nonzero(prediction & reference))
    return 2 * both / (int(np.count_nonzero(prediction)) + int(np.count_nonzero(reference)))


def keep_largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest connected component of a mask, the whole mask where there is none."""
    components, count = ndimage.label(mask, NEIGHBOURS)
    if count < 2:
        return mask
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return np.asarray(components == sizes.argmax())


class Scorer:
    """Scores label maps of a bundle against those of a dataset.

    Args:
        bundle: whose labels they are.
        dataset: the reference.
    """

    def __init__(self, bundle: Bundle, dataset: Dataset) -> None:
        self.labels = bundle.labels
        names = trainable_labels(dataset)
        # the value in the dataset, by the network's
        self._sources = bundle.dataset_values
        self._names = names
        self._ignored = find_ignored(dataset.label_names)

    def score(self, prediction: NDArray[Any], pair: Pair) -> tuple[list[float], list[float]]:
        """Return the Dice of each label as it is, and of its largest component alone; NaN where it was not drawn.

        Args:
            prediction: (I, J, K) labels of the bundle, in the scan's grid.
            pair: the reference.
        """
        reference = np.rint(read_volume(pair.label).array).astype(np.int32)
        known = reference != self._ignored if self._ignored is not None else np.True_
        plain, largest = [], []
        for value in self.labels:
            source = self._sources.get(value, value)
            if pair.annotated is not None and self._names.get(source) not in pair.annotated:
                plain.append(math.nan)
                largest.append(math.nan)
                continue
            found = prediction == value
            plain.append(dice(found & known, (reference == source) & known))
            largest.append(dice(keep_largest(found) & known, (reference == source) & known))
        return plain, largest


def mean_of_labels(scores: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean of each label over the cases (case, label), NaN left out; NaN where nothing is left."""
    columns = np.array(scores, dtype=np.float64).T
    return [float(np.mean(column[~np.isnan(column)])) if (~np.isnan(column)).any() else math.nan for column in columns]

"""Dice of label maps in the scan's own grid, with labels that were not drawn left out."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoseg.bundle.metadata import Bundle
from tomoseg.data.components import largest_component
from tomoseg.data.datasets import Dataset, Pair
from tomoseg.data.inspection.training_checks import trainable_labels
from tomoseg.data.label_mapping import LabelMapping
from tomoseg.data.labels import find_ignored
from tomoseg.data.overlap import dice
from tomoseg.data.read import read_volume

IGNORED = -1  # value of reference voxels


class DiceMeter:
    """Scores label maps of a bundle against those of a dataset.

    Args:
        bundle: whose labels they are.
        dataset: the reference.
    """

    def __init__(self, bundle: Bundle, dataset: Dataset) -> None:
        self.labels = bundle.labels
        sources = {bundle.dataset_values.get(value, value): value for value in self.labels}
        self._mapping = LabelMapping(sources, keep_others=False)
        self._renumbered = dataset.renumbered
        names = trainable_labels(dataset).items()
        self._names = {self._mapping.value(self._renumbered.value(value)): name for value, name in names}
        self._ignored = find_ignored(dataset.label_names)

    def measure(self, prediction: NDArray[Any], pair: Pair) -> tuple[list[float], list[float]]:
        """Return the Dice of each label, and of its largest component alone; NaN where it is not annotated.

        Args:
            prediction: (I, J, K) labels of the bundle, in the scan's grid.
            pair: the reference.
        """
        reference, drawn = self.read(pair), self.drawn_labels(pair)
        known = reference != IGNORED
        plain, largest = [], []
        for value in self.labels:
            if value not in drawn:
                plain.append(math.nan)
                largest.append(math.nan)
                continue
            found, true = prediction == value, reference == value
            plain.append(dice(found & known, true))
            largest.append(dice(largest_component(found) & known, true))
        return plain, largest

    def read(self, pair: Pair) -> NDArray[np.int32]:
        """Return the reference (I, J, K) with the bundle's values, and `IGNORED` where it counts for nothing."""
        drawn = np.rint(read_volume(pair.label).array).astype(np.int32)
        reference: NDArray[np.int32] = self._mapping.apply(self._renumbered.apply(drawn)).astype(np.int32)
        if self._ignored is not None:
            reference[drawn == self._ignored] = IGNORED
        return reference

    def drawn_labels(self, pair: Pair) -> dict[int, str]:
        """Return the bundle's labels that are annotated in a case, by their values."""
        annotated = pair.annotated
        return {
            value: name
            for value, name in self.labels.items()
            if annotated is None or self._names.get(value) in annotated
        }


def mean_of_labels(dice: Sequence[Sequence[float]] | NDArray[np.float64]) -> list[float]:
    """Return the mean of each label over the cases (case, label), NaN left out; NaN where nothing is left."""
    columns = np.array(dice, dtype=np.float64).T
    return [float(np.mean(column[~np.isnan(column)])) if (~np.isnan(column)).any() else math.nan for column in columns]

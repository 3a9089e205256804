"""How well two masks overlap, counted in voxels."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Overlap:
    """The voxels of one label in a prediction and in its reference, as counts.

    Each ratio is NaN where nothing stands below its line, as in MONAI's `compute_confusion_matrix_metric`. Counts are
    exact; MONAI's are float32, and beyond 2^24 voxels off by one here and there.

    Attributes:
        both: voxels that carry the label in both (true positives).
        predicted_only: false positives.
        reference_only: false negatives.
        neither: true negatives; those that are to be ignored are in none of the four.
    """

    both: int
    predicted_only: int
    reference_only: int
    neither: int

    @property
    def predicted(self) -> int:
        """Number of voxels of the prediction."""
        return self.both + self.predicted_only

    @property
    def reference(self) -> int:
        """Number of voxels of the reference."""
        return self.both + self.reference_only

    @property
    def dice(self) -> float:
        """Twice the overlap over the sum of both; the same as the F1 of precision and recall."""
        return dice_of_counts(self.both, self.predicted + self.reference)

    @property
    def jaccard(self) -> float:
        """The intersection over the union."""
        return _ratio(self.both, self.both + self.predicted_only + self.reference_only)

    @property
    def precision(self) -> float:
        """The share of the prediction that is right."""
        return _ratio(self.both, self.predicted)

    @property
    def recall(self) -> float:
        """The share of the reference that was found (sensitivity)."""
        return _ratio(self.both, self.reference)

    @property
    def accuracy(self) -> float:
        """The share of all voxels that are right; close to 1 for every small structure."""
        right = self.both + self.neither
        return _ratio(right, right + self.predicted_only + self.reference_only)

    @property
    def relative_volume_error(self) -> float:
        """The volume predicted too much (above 0) or too little, as a share of the reference's."""
        return _ratio(self.predicted - self.reference, self.reference)


def count_overlap(prediction: NDArray[np.bool_], reference: NDArray[np.bool_], voxels: int) -> Overlap:
    """Count the voxels of two masks.

    Args:
        prediction: (I, J, K), or any box of it that holds all of both masks.
        reference: of the same shape.
        voxels: of the whole volume, without those that are to be ignored.
    """
    both = int(np.count_nonzero(prediction & reference))
    predicted_only = int(np.count_nonzero(prediction)) - both
    reference_only = int(np.count_nonzero(reference)) - both
    return Overlap(both, predicted_only, reference_only, voxels - both - predicted_only - reference_only)


def dice(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """Return the Dice of two masks of one shape; NaN where the reference is empty, as in MONAI."""
    overlap = count_overlap(prediction, reference, reference.size)
    return overlap.dice if overlap.reference else math.nan


def dice_of_counts(both: int, total: int) -> float:
    """Return a Dice; NaN where there is nothing.

    Args:
        both: voxels that both masks have.
        total: the voxels of one and those of the other, added up.
    """
    return _ratio(2 * both, total)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan

"""The network's log_probabilities around one place of a whole scan, of which only crops are segmented."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tomoseg.core.errors import UsageError
from tomoseg.data.geometry import Box
from tomoseg.inference.localisation.locator import RegionCrop
from tomoseg.label_app.clicks.correction import Click


class CropProbabilities:
    """Log-probabilities of one scan: those of its crops, and background everywhere else.

    Args:
        places: the crops; where they overlap, the first that finds something there counts, as in the scan's labels.
        log_probabilities: of each of them, (labels, i, j, k) in a box of the scan.
    """

    def __init__(
        self, places: Sequence[RegionCrop], log_probabilities: Sequence[Callable[[Box], NDArray[np.float32]]]
    ) -> None:
        self._places = places
        self._log_probabilities = log_probabilities

    def __call__(self, box: Box) -> NDArray[np.float32]:
        """Return (labels, i, j, k) in a box of the scan."""
        looks = [
            (place.crop.covers(box), log_probabilities)
            for place, log_probabilities in zip(self._places, self._log_probabilities, strict=True)
        ]
        # one of them has to say how many labels there are
        near = [(inside, log_probabilities(box)) for inside, log_probabilities in looks if inside.any()] or [
            (looks[0][0], looks[0][1](box))
        ]
        values = np.full(near[0][1].shape, -np.inf, np.float32)
        values[0] = 0.0
        found_before = np.zeros(values.shape[1:], bool)
        for inside, found in near:
            free = inside & ~found_before
            values[:, free] = found[:, free]
            found_before |= inside & (found.argmax(axis=0) > 0)
        return values

    def require_inside(self, clicks: Sequence[Click]) -> None:
        """Raise UsageError if a label was clicked where the network does not look."""
        for click in clicks:
            i, j, k = (slice(index, index + 1) for index in click.voxel)
            if click.value and not any(place.crop.covers((i, j, k)).any() for place in self._places):
                boxes = (f"{place.region.name} {_describe(place)}" for place in self._places)
                raise UsageError(
                    f"click at {list(click.voxel)}: expected a voxel of what the model looks at ({', '.join(boxes)}), "
                    "got one elsewhere in the scan; take the click back, and draw there by hand"
                )


def _describe(place: RegionCrop) -> str:
    """Return the scan's voxels that hold a crop."""
    target = place.crop.target()
    if target is None:
        return "beyond the scan"
    first, last = ([side.start for side in target[0]], [side.stop - 1 for side in target[0]])
    return f"{first} to {last}"

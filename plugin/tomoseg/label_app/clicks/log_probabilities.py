"""The network's log-probabilities around one place of a scan, without running it on all of the scan."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tomoseg.core.errors import UsageError
from tomoseg.data.geometry import Box, Grid
from tomoseg.inference.localisation.locator import RegionCrop
from tomoseg.inference.segmenter import Prepared, Segmenter
from tomoseg.label_app.clicks.correction import Click

LEAST = float(np.finfo(np.float32).tiny)  # a probability of 0 has no logarithm
KEPT = 64  # boxes; clients send all clicks of an image each time


class LocalProbabilities:
    """Log-probabilities of one scan, box by box; those of the last boxes are kept.

    Args:
        segmenter: runs the network.
        prepared: the scan, or a crop of it.
        grid: of the scan, in the mm of the prepared volume.
    """

    def __init__(self, segmenter: Segmenter, prepared: Prepared, grid: Grid) -> None:
        self._segmenter = segmenter
        self._prepared = prepared
        self._grid = grid
        self._look = lru_cache(KEPT)(self._probabilities)

    def __call__(self, box: Box) -> NDArray[np.float32]:
        """Return (labels, i, j, k) in a box of the scan."""
        i, j, k = ((side.start, side.stop) for side in box)
        return np.log(np.maximum(self._look(i, j, k), LEAST))

    def _probabilities(self, *box: tuple[int, int]) -> NDArray[np.float32]:
        return self._segmenter.probabilities(self._prepared, self._grid.part([slice(*side) for side in box]))


class CropProbabilities:
    """Log-probabilities of a whole scan: those of the crops that are segmented, and background everywhere else.

    Args:
        places: the crops; where they overlap, the first that finds something there counts, as in the scan's labels.
        log_probabilities: of each of them, (labels, i, j, k) in a box of the scan.
    """

    def __init__(
        self, places: Sequence[RegionCrop], log_probabilities: Sequence[Callable[[Box], NDArray[np.float32]]]
    ) -> None:
        self._places = places
        self._looks = log_probabilities

    def __call__(self, box: Box) -> NDArray[np.float32]:
        """Return (labels, i, j, k) in a box of the scan."""
        looks = [(place.crop.covers(box), look) for place, look in zip(self._places, self._looks, strict=True)]
        # one of them has to say how many labels there are
        near = [(inside, look(box)) for inside, look in [one for one in looks if one[0].any()] or looks[:1]]
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

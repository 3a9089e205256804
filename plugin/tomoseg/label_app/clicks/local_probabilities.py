"""The network's log-probabilities around one place of a scan, without running it on all of the scan."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tomoseg.data.geometry import Box, Grid
from tomoseg.inference.segmenter import Prepared, Segmenter

LEAST = float(np.finfo(np.float32).tiny)  # a probability of 0 has no logarithm
KEPT = 64  # boxes; clients send all clicks of an image each time


class LocalProbabilities:
    """Log-probabilities of one scan, box by box; those of the last boxes are kept.

    Args:
        segmenter: runs the network.
        prepared: the scan, or a crop of it.
        grid: of the scan, in the mm of what was prepared.
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
        affine = self._grid.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [start for start, _ in box]
        return self._segmenter.probabilities(self._prepared, Grid([stop - start for start, stop in box], affine))

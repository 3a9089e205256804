"""The network's scores around one place of a scan, without running it on all of the scan."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from numpy.typing import NDArray
from scipy import ndimage

from tomoseg.data.geometry import Box, Grid
from tomoseg.inference.sliding_window.uncertainty import are_probabilities


class LocalScores:
    """Log-probabilities of one scan, a window at a time; windows that were run are kept.

    Args:
        image: (C, D, H, W), as the bundle's preprocessing leaves it, on the network's device.
        image_affine: 4×4, its voxel indices to RAS+ mm.
        network: gives scores (1, labels, D, H, W).
        inferer: the bundle's; only the size of its window is used.
        scan: grid of the scan.
    """

    def __init__(
        self, image: torch.Tensor, image_affine: NDArray[np.float64], network: torch.nn.Module, inferer: Any, scan: Grid
    ) -> None:
        self._image = image
        self._network = network
        self._size = np.array(image.shape[1:])
        sliding = isinstance(inferer, SlidingWindowInferer)
        roi = np.broadcast_to(inferer.roi_size if sliding else image.shape[1:], 3)
        # a window may be larger than the image: MONAI pads it, and cuts the scores again
        self._roi = np.where(roi > 0, np.minimum(roi, self._size), self._size)
        self._inferer = SlidingWindowInferer(tuple(roi), overlap=0) if sliding else inferer
        self._to_network = np.linalg.solve(image_affine, scan.affine)
        self._windows: list[tuple[NDArray[Any], NDArray[np.float32]]] = []  # first voxel, scores

    def __call__(self, box: Box) -> NDArray[np.float32]:
        """Return (labels, i, j, k) in a box of the scan; -inf beyond what one window around its middle sees."""
        indices = np.stack(np.meshgrid(*[np.arange(part.start, part.stop) for part in box], indexing="ij"))
        flat = indices.reshape(3, -1)
        points = self._to_network[:3, :3] @ flat + self._to_network[:3, 3:]
        # beyond the outermost voxel centres the outermost counts, as when labels are restored
        points = np.clip(points, 0, self._size[:, None] - 1)
        start, scores = self._window(points.min(axis=1), points.max(axis=1))
        local = points - start[:, None]
        seen = ((local >= -1e-6) & (local <= np.array(scores.shape[1:])[:, None] - 1 + 1e-6)).all(axis=0)
        values = np.stack([ndimage.map_coordinates(one, local, order=1, mode="nearest") for one in scores])
        values[:, ~seen] = -np.inf
        return values.reshape(len(scores), *indices.shape[1:])

    def _window(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return a window that holds the coordinates from `low` to `high`, or as much of them as it can."""
        for start, scores in self._windows:
            if (start <= low).all() and (start + np.array(scores.shape[1:]) - 1 >= high).all():
                return start, scores
        start = np.clip(np.round((low + high - self._roi + 1) / 2).astype(int), 0, self._size - self._roi)
        d, h, w = (slice(first, first + size) for first, size in zip(start, self._roi, strict=True))
        part = self._image[:, d, h, w]
        with torch.no_grad():
            scores = _log_probabilities(self._inferer(part[None], self._network)[0].float()).cpu().numpy()
        self._windows.append((start, scores))
        return start, scores


def _log_probabilities(scores: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities of scores (labels, D, H, W), which may be probabilities already."""
    if are_probabilities(scores):
        return scores.clamp(min=1e-12).log()
    return scores.log_softmax(dim=0)

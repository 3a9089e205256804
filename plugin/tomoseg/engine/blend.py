"""Scores of overlapping windows, blended slab by slab: what no later window touches is handed on and forgotten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tomoseg.engine.windows import Windows

# one batch of windows (B, C, D, H, W) to its scores (B, labels, D, H, W)
Predictor = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Slab:
    """Finished scores.

    Args:
        start: first slice along the slab axis, in voxels of the unpadded volume. It is the last one of the slab before,
            so that neighbouring slices meet in one slab.
        scores: (labels, slices, A, B), the slab axis first; a view that is good until the next slab is made.
    """

    start: int
    scores: torch.Tensor


class Blend:
    """The scores of the windows in work: as many slices as one window is thick, and the last finished one.

    The sum over all windows divided by the sum of their weights, added up in MONAI's order and with its roundings, so
    that the scores equal those of `sliding_window_inference`.

    Args:
        windows: where the windows lie.
        weights: (D, H, W) float32, weights within a window.
        labels: number of scores.
        dtype: of the scores.
        device: where the slab lives.
    """

    def __init__(
        self, windows: Windows, weights: torch.Tensor, labels: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._windows = windows
        self._axis = windows.slab_axis
        self._across = [axis for axis in range(3) if axis != self._axis]
        self._thickness = windows.roi_size[self._axis]
        self._weights = weights.to(device)
        size = (1 + self._thickness, *(windows.shape[axis] for axis in self._across))
        self._total = torch.zeros((labels, *size), dtype=dtype, device=device)
        self._count = torch.zeros(size, dtype=torch.float32, device=device)
        self._first = True

    @property
    def device(self) -> torch.device:
        return self._total.device

    def to(self, device: torch.device) -> None:
        """Move the slab."""
        self._total, self._count = self._total.to(device), self._count.to(device)
        self._weights = self._weights.to(device)

    def add(self, corner: Sequence[int], scores: torch.Tensor) -> None:
        """Add the scores (labels, D, H, W) of the window whose first voxel is `corner`."""
        box = [slice(1, None)]
        box += [slice(corner[axis], corner[axis] + self._windows.roi_size[axis]) for axis in self._across]
        weights = self._weights.movedim(self._axis, 0)
        self._count[tuple(box)].add_(weights)
        for total, score in zip(self._total, scores, strict=True):  # a label's window fits the processor's cache
            # multiplied first, added then, as MONAI rounds
            total[tuple(box)].add_(score.to(self.device, torch.float32).movedim(self._axis, 0) * weights)

    def finish(self, slices: int, start: int) -> Slab | None:
        """Return the first slices as a slab; None if all of them are padding.

        Args:
            slices: how many no later window touches.
            start: the first one, in voxels of the padded volume.
        """
        ready = self._total[:, 1 : 1 + slices]
        ready.div_(self._count[1 : 1 + slices])
        before, after = self._windows.pad[self._axis]
        low, high = before, self._windows.shape[self._axis] - after
        kept = 0 if self._first or start <= low else 1
        begin, end = max(start - kept, low), min(start + slices, high)
        if end <= max(start, low):
            return None
        scores = self._total[:, 1 + begin - start : 1 + end - start]
        for place, axis in enumerate(self._across):
            first, last = self._windows.pad[axis]
            scores = scores.narrow(place + 2, first, self._windows.shape[axis] - first - last)
        return Slab(begin - low, scores)

    def advance(self, slices: int) -> None:
        """Forget the first slices but the last of them, and make room for as many new ones."""
        self._first = False
        rest = self._thickness - slices
        for buffer in (*self._total, self._count):
            buffer[0] = buffer[slices]
            buffer[1 : 1 + rest] = buffer[1 + slices :].clone()
            buffer[1 + rest :] = 0

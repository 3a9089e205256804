"""Scores of overlapping windows, blended slab by slab: what no later window touches is handed on and forgotten."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from monai.inferers import SlidingWindowInferer

from tomoseg.inference.sliding_window.windows import Windows, importance_map, pad_volume, place_windows

LOGITS_AT_ONCE = 1 << 20  # logits that are added at once

# one batch of windows (B, C, D, H, W) to its logits (B, labels, D, H, W)
Predictor = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Slab:
    """Finished logits.

    Attributes:
        start: first slice along the slab axis, in voxels of the unpadded volume. It is the last one of the slab before,
            so that neighbouring slices meet in one slab.
        logits: (labels, slices, A, B), the slab axis first; a view that is good until the next slab is made.
    """

    start: int
    logits: torch.Tensor


class Blend:
    """The logits of the windows in work: as many slices as one window is thick, and the last finished one.

    The sum over all windows divided by the sum of their weights, added up in MONAI's order and with its roundings, so
    that the logits equal those of `sliding_window_inference`.

    Args:
        windows: where the windows lie.
        weights: (D, H, W) float32, weights within a window.
        like: logits (labels, D, H, W) of a window; the slab has their number of labels, and their order in memory.
        dtype: of the slab.
        device: where the slab lives.
    """

    def __init__(
        self, windows: Windows, weights: torch.Tensor, like: torch.Tensor, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._windows = windows
        self._axis = windows.slab_axis
        self._across = [axis for axis in range(3) if axis != self._axis]
        self._thickness = windows.roi_size[self._axis]
        # what pads the volume is not blended; along an axis that is padded there is one window
        self._kept = [
            slice(before, size - after) for (before, after), size in zip(windows.pad, windows.roi_size, strict=True)
        ]
        self._weights = self._cut(weights.to(device))
        size = (1 + self._thickness, *(windows.shape[axis] - sum(windows.pad[axis]) for axis in self._across))
        labels = like.shape[0]
        self._labels_last = labels > 1 and like.stride(0) == 1
        if self._labels_last:
            self._total = torch.zeros((*size, labels), dtype=dtype, device=device).movedim(-1, 0)
        else:
            self._total = torch.zeros((labels, *size), dtype=dtype, device=device)
        self._count = torch.zeros(size, dtype=torch.float32, device=device)
        self._first = True

    def to(self, device: torch.device) -> None:
        """Move the slab."""
        self._total, self._count = self._total.to(device), self._count.to(device)
        self._weights = self._weights.to(device)

    def moved(self, slab: Slab) -> Slab:
        """Return the slab that was finished last, where the blend has moved to."""
        view = slab.logits
        return Slab(slab.start, self._total.as_strided(view.shape, view.stride(), view.storage_offset()))

    def add(self, corner: Sequence[int], logits: torch.Tensor) -> None:
        """Add the logits (labels, D, H, W) of the window whose first voxel is `corner`."""
        logits = self._cut(logits)
        ends = zip(self._across, logits.shape[2:], strict=True)
        place = [slice(corner[axis], corner[axis] + length) for axis, length in ends]
        self._count[1:, place[0], place[1]].add_(self._weights)
        total = self._total[:, 1:, place[0], place[1]]
        # part by part, each small enough for the processor's cache
        along = 1 if self._labels_last else 0
        step = max(LOGITS_AT_ONCE * logits.shape[along] // logits.numel(), 1)
        for first in range(0, logits.shape[along], step):
            length = min(step, logits.shape[along] - first)
            part = logits.narrow(along, first, length).to(total.device, torch.float32)
            weights = self._weights.narrow(0, first, length) if self._labels_last else self._weights
            # multiplied first, added then, as MONAI rounds
            total.narrow(along, first, length).add_(part * weights)

    def _cut(self, window: torch.Tensor) -> torch.Tensor:
        """Return (…, D, H, W) with the slab axis before the others, and these without what pads the volume."""
        for axis in self._across:
            kept = self._kept[axis]
            window = window.narrow(axis - 3, kept.start, kept.stop - kept.start)
        return window.movedim(self._axis - 3, -3)

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
        return Slab(begin - low, self._total[:, 1 + begin - start : 1 + end - start])

    def advance(self, slices: int) -> None:
        """Forget the first slices but the last of them, and make room for as many new ones."""
        self._first = False
        for buffer in (self._total.movedim(1, 0), self._count):
            for index in range(self._thickness + 1 - slices):  # slice by slice, for no copy of all of them
                buffer[index] = buffer[index + slices]
            buffer[self._thickness + 1 - slices :] = 0


def blend_whole(image: torch.Tensor, inferer: SlidingWindowInferer, predict: Predictor) -> torch.Tensor:
    """Return the blended logits (labels, D, H, W) of a small volume, or of a part of one, all at once.

    Args:
        image: (C, D, H, W), on the device of the network.
        inferer: window, overlap and blending, MONAI's or nnU-Net's.
        predict: the network.
    """
    windows = place_windows(image.shape[1:], inferer)
    padded, weights = pad_volume(image, windows, inferer), importance_map(windows, inferer, image.device)
    total, count = image.new_zeros(()), torch.zeros(windows.shape, device=image.device)
    for _, corners in windows.groups:
        for corner in corners:
            d, h, w = (slice(start, start + size) for start, size in zip(corner, windows.roi_size, strict=True))
            logits = predict(padded[None, :, d, h, w])[0].float()
            if not total.ndim:
                total = torch.zeros((len(logits), *windows.shape), device=image.device)
            total[:, d, h, w] += logits * weights
            count[d, h, w] += weights
    d, h, w = (slice(before, size - after) for (before, after), size in zip(windows.pad, windows.shape, strict=True))
    return (total / count)[:, d, h, w]

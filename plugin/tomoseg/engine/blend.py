"""Scores of overlapping windows, blended slab by slab: what no later window touches is handed on and forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from tomoseg.engine.windows import Windows

# one batch of windows (B, C, D, H, W) to its scores (B, labels, D, H, W)
Predictor = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Slab:
    """Finished scores.

    Args:
        start: first slice along the slab axis, in voxels of the unpadded volume.
        scores: (labels, D, H, W), the slab axis cut to the finished slices.
    """

    start: int
    scores: torch.Tensor


def stream_scores(
    image: torch.Tensor,
    windows: Windows,
    weights: torch.Tensor,
    predict: Predictor,
    batch_size: int,
) -> Iterator[Slab]:
    """Yield the blended scores of a volume in slabs along the slab axis, in order and without gaps.

    The sum over all windows divided by the sum of their weights, added up in MONAI's order, so that the scores equal
    those of `sliding_window_inference`. Never more than one window's thickness of slices is held.

    Args:
        image: (C, D, H, W), padded to `windows.shape`.
        windows: where the windows lie.
        weights: (D, H, W) weights within a window.
        predict: the network.
        batch_size: windows that `predict` gets at once.
    """
    axis = windows.slab_axis
    thickness = windows.roi_size[axis]
    shape = list(windows.shape)
    shape[axis] = thickness
    total: torch.Tensor | None = None
    count = torch.zeros(shape, dtype=torch.float32, device=image.device)

    for index, (start, corners) in enumerate(windows.groups):
        for first in range(0, len(corners), batch_size):
            batch = corners[first : first + batch_size]
            scores = predict(torch.stack([_cut(image, corner, windows.roi_size) for corner in batch]))
            if total is None:
                total = torch.zeros((scores.shape[1], *shape), dtype=torch.float32, device=image.device)
            for corner, score in zip(batch, scores, strict=True):
                local = [*corner]
                local[axis] = 0
                # multiplied first, added then, as MONAI rounds
                _cut(total, local, windows.roi_size).add_(score.to(image.device, torch.float32) * weights)
                _cut(count[None], local, windows.roi_size).add_(weights)
        last = index + 1 == len(windows.groups)
        finished = thickness if last else windows.groups[index + 1][0] - start
        assert total is not None
        slab = _unpad(_hand_over(total, count, axis, finished), start, windows)
        if slab is not None:
            yield slab


def _cut(volume: torch.Tensor, corner: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """Return a view of a box of (C, D, H, W)."""
    for axis, (start, length) in enumerate(zip(corner, size, strict=True)):
        volume = volume.narrow(axis + 1, start, length)
    return volume


def _hand_over(total: torch.Tensor, count: torch.Tensor, axis: int, finished: int) -> torch.Tensor:
    """Return the first `finished` slices, normalised, and move the others to the front of the buffers."""
    scores = total.narrow(axis + 1, 0, finished) / count.narrow(axis, 0, finished)
    for buffer, along in ((total, axis + 1), (count, axis)):
        size = buffer.shape[along]
        rest = buffer.narrow(along, finished, size - finished).clone()
        buffer.narrow(along, 0, size - finished).copy_(rest)
        buffer.narrow(along, size - finished, finished).zero_()
    return scores


def _unpad(scores: torch.Tensor, start: int, windows: Windows) -> Slab | None:
    """Cut the padding off a slab that begins at slice `start` of the padded volume; None if nothing is left."""
    for axis, (before, after) in enumerate(windows.pad):
        low, high = before, windows.shape[axis] - after
        if axis == windows.slab_axis:
            stop = min(start + scores.shape[axis + 1], high)
            low, high = max(low - start, 0), stop - start
            if high <= low:
                return None
        scores = scores.narrow(axis + 1, low, high - low)
    return Slab(max(start - windows.pad[windows.slab_axis][0], 0), scores)

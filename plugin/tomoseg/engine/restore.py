"""From scores in the network's grid to labels in the scan's own, without ever holding scores in the scan's grid.

The labels are those of `argmax(linear interpolation of the scores)`, coordinates beyond the border clamped to it.
Where all network voxels around a point have one arg-max, that is the answer, for a convex combination keeps the order
of the scores; only points at a boundary between labels interpolate them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tomoseg.engine.blend import Slab
from tomoseg.engine.placement import Placement

Labels = NDArray[np.unsignedinteger[Any]]
Activation = Callable[[torch.Tensor], torch.Tensor]

CHUNK = 1 << 16  # boundary points interpolated at once
SNAP = 1e-5  # voxels; a coordinate this close to a grid point missed it by rounding only
SHEAR = 1e-4  # voxels across the scan; float32 headers shear oblique scans by 3e-5, grid_sample rounds as much


@dataclass(frozen=True)
class Neighbours:
    """Linear interpolation along one axis: for each position the neighbours' indices and the share of the upper one."""

    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    share: NDArray[np.float32]


def neighbours(coordinates: NDArray[np.float64], low: int, high: int) -> Neighbours:
    """Return the neighbours of fractional coordinates on an axis, clamped to [low, high]."""
    nearest = np.round(coordinates)
    snapped = np.where(np.abs(coordinates - nearest) < SNAP, nearest, coordinates)
    clamped = np.clip(snapped, low, high)
    lower = np.floor(clamped).astype(np.int64)
    share = (clamped - lower).astype(np.float32)
    return Neighbours(lower, np.where(share > 0, lower + 1, lower), share)


class Restorer:
    """Takes slabs of scores in order and fills in the labels of the scan.

    Args:
        labels: (I, J, K), filled in place.
        placement: where the scan's voxels lie in the network's grid.
        slab_axis: the axis of the network's grid along which the slabs come.
        activation: applied to scores, labels first, before they are interpolated; must keep their order. None for none.
    """

    def __init__(
        self, labels: Labels, placement: Placement, slab_axis: int, activation: Activation | None = None
    ) -> None:
        self._labels = labels
        self._axis = slab_axis
        self._activation = activation
        self._start, self._stop = (np.array(corner) for corner in placement.scored)
        # where the image was cropped, one voxel of zeros stands for all that was cut away
        below, above = (np.array(corner) for corner in placement.domain)
        self._zeros = (below < self._start).astype(int), (above > self._stop).astype(int)
        origin = self._start - self._zeros[0]
        self._low = np.maximum(below - origin, 0)
        self._high = np.minimum(above - origin, self._stop + self._zeros[1] - origin) - 1
        self._inside = placement.inside
        self._kept: torch.Tensor | None = None
        self._received = 0  # slices along the slab axis, zeros included
        linear = placement.matrix[:3, :3]
        linear = np.where(np.abs(linear) * max(labels.shape) < SHEAR, 0, linear)
        self._matrix = np.column_stack([linear, placement.matrix[:3, 3] - origin])
        self._separable = bool(((linear != 0).sum(axis=0) == 1).all() and ((linear != 0).sum(axis=1) == 1).all())
        if self._separable:
            self._scan_axes = tuple(int(np.flatnonzero(row)[0]) for row in linear)
            self._lines = [self._line(axis) for axis in range(3)]

    def feed(self, slab: Slab) -> None:
        """Label every voxel of the scan whose neighbours are all there by now."""
        axis, stop = self._axis, slab.start + slab.scores.shape[self._axis + 1]
        scores = slab.scores
        pads: list[int] = []
        for other in (2, 1, 0):
            low, high = self._start[other], self._stop[other]
            before, after = self._zeros[0][other], self._zeros[1][other]
            if other == axis:
                before, after = before * (slab.start <= low < stop), after * (slab.start < high <= stop)
                low, high = max(low - slab.start, 0), min(high, stop) - slab.start
                if high <= low:
                    return
            scores = scores.narrow(other + 1, low, high - low)
            pads += [int(before), int(after)]
        if any(pads):
            scores = torch.nn.functional.pad(scores, pads)
        self._label(scores.movedim(axis + 1, 1))

    def finish(self) -> None:
        """Make background of what was cropped away before the network's grid was made."""
        for axis, (first, stop) in enumerate(zip(*self._inside, strict=True)):
            along = np.moveaxis(self._labels, axis, 0)
            along[:first] = 0
            along[stop:] = 0

    def _label(self, scores: torch.Tensor) -> None:
        if self._kept is not None:
            scores = torch.cat([self._kept, scores], dim=1)
        start = self._received - (self._kept is not None)
        stop = start + scores.shape[1]
        self._kept = scores[:, -1:].clone()
        best: Labels = scores.argmax(dim=0).to(torch.int32).cpu().numpy().astype(self._labels.dtype)
        if self._separable:
            self._feed_separable(scores, best, start, stop)
        else:
            self._feed_general(scores, best, start, stop)
        self._received = stop

    def _order(self) -> tuple[int, int, int]:
        """Return the axes of the network's grid with the slab axis first."""
        first, second = (axis for axis in range(3) if axis != self._axis)
        return self._axis, first, second

    def _line(self, axis: int) -> Neighbours:
        scan_axis = self._scan_axes[axis]
        positions = np.arange(self._labels.shape[scan_axis])
        coordinates = self._matrix[axis, scan_axis] * positions + self._matrix[axis, 3]
        return neighbours(coordinates, self._low[axis], self._high[axis])

    def _feed_separable(self, scores: torch.Tensor, best: Labels, start: int, stop: int) -> None:
        order = self._order()
        along, *across = (self._lines[axis] for axis in order)
        ready = np.flatnonzero((along.upper >= self._received) & (along.upper < stop))
        if not ready.size:
            return
        rows = slice(ready[0], ready[-1] + 1)  # coordinates are monotone, so these are neighbours
        lines = [Neighbours(along.lower[rows] - start, along.upper[rows] - start, along.share[rows]), *across]
        low = high = best  # smallest and largest label among the neighbours
        for axis, line in enumerate(lines):
            smaller, larger = np.take(low, line.lower, axis), np.take(high, line.lower, axis)
            if line.share.any():
                np.minimum(smaller, np.take(low, line.upper, axis), out=smaller)
                np.maximum(larger, np.take(high, line.upper, axis), out=larger)
            low, high = smaller, larger
        where = np.nonzero(low != high)
        points = [Neighbours(n.lower[i], n.upper[i], n.share[i]) for n, i in zip(lines, where, strict=True)]
        low[where] = self._interpolate(scores, points)
        target = self._labels.transpose([self._scan_axes[axis] for axis in order])
        target[rows] = low

    def _feed_general(self, scores: torch.Tensor, best: Labels, start: int, stop: int) -> None:
        """The same for a grid that is sheared against the network's: point by point, plane by plane of the scan."""
        order = self._order()
        plane = np.indices(self._labels.shape[1:]).reshape(2, -1)
        for i in range(self._labels.shape[0]):
            matrix = self._matrix[list(order)]
            coordinates = matrix[:, 1:3] @ plane + (matrix[:, :1] * i + matrix[:, 3:])
            along = neighbours(coordinates[0], self._low[order[0]], self._high[order[0]])
            ready = np.flatnonzero((along.upper >= self._received) & (along.upper < stop))
            if not ready.size:
                continue
            points = [Neighbours(along.lower[ready] - start, along.upper[ready] - start, along.share[ready])]
            points += [
                neighbours(coordinates[position, ready], self._low[axis], self._high[axis])
                for position, axis in ((1, order[1]), (2, order[2]))
            ]
            values = self._label_points(scores, best, points)
            self._labels[i].reshape(-1)[ready] = values

    def _label_points(self, scores: torch.Tensor, best: Labels, points: list[Neighbours]) -> Labels:
        values = best[tuple(point.lower for point in points)]
        split = np.zeros(values.shape, dtype=bool)
        for corner in product((False, True), repeat=3):
            split |= best[_corner(points, corner)] != values
        if split.any():
            chosen = [Neighbours(p.lower[split], p.upper[split], p.share[split]) for p in points]
            values[split] = self._interpolate(scores, chosen)
        return values

    def _interpolate(self, scores: torch.Tensor, points: list[Neighbours]) -> Labels:
        """Return the arg-max of the interpolated scores at points given by their neighbours along each axis."""
        flat = scores.reshape(scores.shape[0], -1)
        result = np.empty(points[0].lower.size, dtype=self._labels.dtype)
        for first in range(0, result.size, CHUNK):
            part = [
                Neighbours(p.lower[first:][:CHUNK], p.upper[first:][:CHUNK], p.share[first:][:CHUNK]) for p in points
            ]
            total: torch.Tensor | None = None
            for corner in product((False, True), repeat=3):
                weight = np.prod([p.share if up else 1 - p.share for p, up in zip(part, corner, strict=True)], axis=0)
                if not weight.any():
                    continue
                index = np.ravel_multi_index(_corner(part, corner), tuple(scores.shape[1:]))
                values = flat.index_select(1, torch.from_numpy(index).to(flat.device))
                if self._activation is not None:
                    values = self._activation(values)
                values *= torch.from_numpy(weight).to(values.device)
                total = values if total is None else total.add_(values)
            assert total is not None
            result[first : first + CHUNK] = total.argmax(dim=0).cpu().numpy()
        return result


def _corner(points: list[Neighbours], corner: tuple[bool, ...]) -> tuple[NDArray[np.int64], ...]:
    return tuple(point.upper if up else point.lower for point, up in zip(points, corner, strict=True))

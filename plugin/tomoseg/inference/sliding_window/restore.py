"""From logits in the network's grid to values in the scan's own, without ever holding logits in the scan's grid.

The labels are those of `argmax(linear interpolation of the logits)`, coordinates beyond the border clamped to it.
Where all network voxels around a point have one arg-max, that is the answer, for a convex combination keeps the order
of the logits; only points at a boundary between labels interpolate them all. The same holds for a threshold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tomoseg.inference.sliding_window.blend import Slab
from tomoseg.inference.sliding_window.confidence import ConfidenceSums
from tomoseg.inference.sliding_window.discretizer import Discretizer
from tomoseg.inference.sliding_window.placement import Placement

BLOCK_VOXELS = 1 << 20  # voxels of the scan that are filled at once
CHUNK_POINTS = 1 << 16  # points that are interpolated at once
SNAP_VOXELS = 1e-5  # a coordinate this close to a grid point missed it by rounding only
MAX_SHEAR_VOXELS = 1e-4  # across the scan; float32 headers shear oblique scans by 3e-5, grid_sample rounds as much


@dataclass(frozen=True)
class Neighbours:
    """Linear interpolation along one axis: for each position the neighbours' indices and the share of the upper one."""

    lower: torch.Tensor
    upper: torch.Tensor
    share: torch.Tensor

    def __getitem__(self, index: Any) -> Neighbours:
        return Neighbours(self.lower[index], self.upper[index], self.share[index])

    def to(self, device: torch.device) -> Neighbours:
        """Return a copy on a device."""
        return Neighbours(self.lower.to(device), self.upper.to(device), self.share.to(device))


def neighbours(
    coordinates: NDArray[np.float64], low: int, high: int, device: torch.device, nearest: bool = False
) -> Neighbours:
    """Return the neighbours of fractional coordinates on an axis, clamped to [low, high]; `nearest`: one for both."""
    whole = np.floor(coordinates + 0.5 + SNAP_VOXELS)
    snapped = np.where(nearest | (np.abs(coordinates - whole) < SNAP_VOXELS), whole, coordinates)
    clamped = np.clip(snapped, low, high)
    lower = np.floor(clamped).astype(np.int64)
    share = (clamped - lower).astype(np.float32)
    upper = np.where(share > 0, lower + 1, lower)
    return Neighbours(*(torch.from_numpy(part).to(device) for part in (lower, upper, share)))


@dataclass(frozen=True)
class PaddedSlab:
    """The logits of one slab with what surrounds them, slab axis first.

    Attributes:
        logits: (labels, rows, A, B), only what counts.
        before: voxels of zeros in front of it, along (rows, A, B).
        cells: (rows, A, B), zeros included: the value that a voxel and its upper neighbours share, else `mixed`.
        first: index of the first row in the whole volume.
        values: (rows, A, B), the value at each voxel of the logits.
        possible: (rows, A, B) bool, the voxels that may have a label; empty where nothing is summed.
    """

    logits: torch.Tensor
    before: tuple[int, int, int]
    cells: torch.Tensor
    first: int
    values: torch.Tensor
    possible: torch.Tensor

    @property
    def stop(self) -> int:
        """Slice after the last one."""
        return self.first + self.cells.shape[0]


class Restorer:
    """Takes slabs of logits in order and fills in the voxels of the scan.

    Args:
        values: (I, J, K), filled in place.
        placement: where the scan's voxels lie in the network's grid.
        slab_axis: the axis of the network's grid along which the slabs come.
        discretizer: turns logits into values.
        sums: added up over the logits; None for none.
    """

    def __init__(
        self,
        values: NDArray[Any],
        placement: Placement,
        slab_axis: int,
        discretizer: Discretizer,
        sums: ConfidenceSums | None = None,
    ) -> None:
        self._values = values
        self._sums = sums
        self._decision = discretizer
        self._device = torch.device("cpu")
        self._inside = placement.inside
        order = [slab_axis, *(axis for axis in range(3) if axis != slab_axis)]
        start, stop = (np.array(corner)[order] for corner in placement.scored)
        below, above = (np.array(corner)[order] for corner in placement.domain)
        # where the image was cropped, one voxel of zeros stands for all that was cut away
        self._zeros = (below < start).astype(int), (above > stop).astype(int)
        self._scored = start, stop
        origin = start - self._zeros[0]
        self._nearest = [axis in placement.nearest_axes for axis in order]
        self._low = np.maximum(below - origin, 0)
        self._high = np.minimum(above - origin, stop + self._zeros[1] - origin) - 1
        self._received = 0  # rows of the frame, zeros included
        linear = placement.matrix[order, :3]
        linear = np.where(np.abs(linear) * max(values.shape) < MAX_SHEAR_VOXELS, 0, linear)
        self._matrix = np.column_stack([linear, placement.matrix[order, 3] - origin])
        self._separable = bool(((linear != 0).sum(axis=0) == 1).all() and ((linear != 0).sum(axis=1) == 1).all())
        self._uneven = [True] * 3
        if self._separable:
            self._scan_axes = tuple(int(np.flatnonzero(row)[0]) for row in linear)
            self._lines = [self._line(axis) for axis in range(3)]
            self._uneven = [bool(line.share.any()) for line in self._lines]

    def feed(self, slab: Slab) -> None:
        """Fill every voxel of the scan whose neighbours are all there by now."""
        self._follow(slab.logits.device)
        frame = self._frame(slab)
        if frame is None or frame.stop <= self._received:
            return
        if self._separable:
            for target, lines in self._blocks(frame):
                self._fill_box(target, frame, lines)
        else:
            for target, where, points in self._planes(frame):
                self._fill_points(target, where, frame, points)
        if self._sums is not None:
            known = max(self._received - frame.first - frame.before[0], 0)
            self._sums.add(frame.logits[:, known:], frame.values[known:], frame.possible[known:])
        self._received = frame.stop

    def finish(self) -> None:
        """Set voxels outside the crop of the network's grid to background."""
        for axis, (first, stop) in enumerate(zip(*self._inside, strict=True)):
            along = np.moveaxis(self._values, axis, 0)
            along[:first] = 0
            along[stop:] = 0

    def _follow(self, device: torch.device) -> None:
        """Work where the logits are; a slab that outgrows the GPU is moved."""
        if device != self._device and self._separable:
            self._lines = [line.to(device) for line in self._lines]
        self._device = device

    def _frame(self, slab: Slab) -> PaddedSlab | None:
        start, stop = (corner.copy() for corner in self._scored)
        before, after = (zeros.copy() for zeros in self._zeros)
        slab_stop = slab.start + slab.logits.shape[1]
        before[0] *= self._received == 0
        after[0] *= slab_stop >= stop[0]
        first = max(start[0], slab.start) - start[0] + self._zeros[0][0] - before[0]
        start[0], stop[0] = max(start[0] - slab.start, 0), min(stop[0], slab_stop) - slab.start
        if stop[0] <= start[0]:
            return None
        logits = slab.logits
        for axis in range(3):
            logits = logits.narrow(axis + 1, int(start[axis]), int(stop[axis] - start[axis]))
        summed = self._sums is not None
        possible = torch.empty(logits.shape[1:] if summed else 0, dtype=torch.bool, device=logits.device)
        values = padded = self._decision.at_voxels(logits, possible if summed else None)
        pads = [int(size) for axis in (2, 1, 0) for size in (before[axis], after[axis])]
        if any(pads):
            padded = torch.nn.functional.pad(values, pads)
        zeros = (int(before[0]), int(before[1]), int(before[2]))
        return PaddedSlab(logits, zeros, self._agreed(padded), int(first), values, possible)

    def _agreed(self, values: torch.Tensor) -> torch.Tensor:
        low = high = values
        for axis, uneven in enumerate(self._uneven):
            size = values.shape[axis] - 1
            if uneven and size:
                smaller, larger = low.clone(), high.clone()
                torch.minimum(low.narrow(axis, 0, size), low.narrow(axis, 1, size), out=smaller.narrow(axis, 0, size))
                torch.maximum(high.narrow(axis, 0, size), high.narrow(axis, 1, size), out=larger.narrow(axis, 0, size))
                low, high = smaller, larger
        return low if low is high else torch.where(low == high, low, self._decision.mixed)

    def _line(self, axis: int) -> Neighbours:
        scan_axis = self._scan_axes[axis]
        positions = np.arange(self._values.shape[scan_axis])
        coordinates = self._matrix[axis, scan_axis] * positions + self._matrix[axis, 3]
        return self._neighbours(coordinates, axis)

    def _neighbours(self, coordinates: NDArray[np.float64], axis: int) -> Neighbours:
        return neighbours(coordinates, self._low[axis], self._high[axis], self._device, self._nearest[axis])

    def _ready(self, along: Neighbours, frame: PaddedSlab) -> torch.Tensor:
        return torch.nonzero((along.upper >= self._received) & (along.upper < frame.stop))[:, 0]

    def _blocks(self, frame: PaddedSlab) -> Iterator[tuple[NDArray[Any], list[Neighbours]]]:
        """Yield boxes of the scan with their points along each axis by itself."""
        target = self._values.transpose(self._scan_axes)
        ready = self._ready(self._lines[0], frame)
        if not ready.numel():
            return
        first, stop = int(ready[0]), int(ready[-1]) + 1  # coordinates are monotone, so these are neighbours
        rows = max(BLOCK_VOXELS // (target.shape[1] * target.shape[2]), 1)
        for begin in range(first, stop, rows):
            part = slice(begin, min(begin + rows, stop))
            yield target[part], [self._lines[0][part], *self._lines[1:]]

    def _planes(self, frame: PaddedSlab) -> Iterator[tuple[NDArray[Any], torch.Tensor, list[Neighbours]]]:
        """The same for a grid that is sheared against the network's: point by point, plane by plane of the scan."""
        # across the scan's axis that runs most along the slab's, so that few planes meet the slab
        order = np.argsort(-np.abs(self._matrix[0, :3]), kind="stable")
        values, matrix = self._values.transpose(order), self._matrix[:, [*order, 3]]
        rows, columns = (np.arange(size) for size in values.shape[1:])
        within = matrix[0, 1] * rows[:, None] + matrix[0, 2] * columns
        lowest, highest = within.min() - 1, within.max() + 1
        for i, target in enumerate(values):
            constant = matrix[:, 0] * i + matrix[:, 3]
            ends = np.clip((constant[0] + lowest, constant[0] + highest), self._low[0], self._high[0])
            if ends[1] < self._received or ends[0] >= frame.stop:
                continue
            along = self._neighbours(within + constant[0], 0)
            ready = torch.nonzero((along.upper >= self._received) & (along.upper < frame.stop)).T
            if ready.numel():
                row, column = ready.cpu().numpy()
                across = matrix[:, 1:2] * row + matrix[:, 2:3] * column + constant[:, None]
                others = [self._neighbours(across[axis], axis) for axis in (1, 2)]
                yield target, ready, [along[tuple(ready)], *others]

    def _fill_box(self, target: NDArray[Any], frame: PaddedSlab, lines: list[Neighbours]) -> None:
        rows = lines[0].lower - frame.first
        first = int(rows.min())
        cells = frame.cells[first : int(rows.max()) + 1]
        for axis in (2, 1):
            cells = cells.index_select(axis, lines[axis].lower)
        found = cells.index_select(0, rows - first)  # a copy; decided values stay on the device of the logits
        where = torch.nonzero(found == self._decision.mixed).unbind(1)
        if where[0].numel():
            points = [line[index] for line, index in zip(lines, where, strict=True)]
            values = self._interpolate(frame, points)
            found = found.to(values.dtype).index_put_(where, values)
        target[...] = found.cpu().numpy()

    def _fill_points(
        self, target: NDArray[Any], where: torch.Tensor, frame: PaddedSlab, points: list[Neighbours]
    ) -> None:
        found = frame.cells[points[0].lower - frame.first, points[1].lower, points[2].lower]
        mixed = found == self._decision.mixed
        if mixed.any():
            values = self._interpolate(frame, [point[mixed] for point in points])
            found = found.to(values.dtype).index_put_((mixed,), values)
        target[tuple(where.cpu().numpy())] = found.cpu().numpy()

    def _interpolate(self, frame: PaddedSlab, points: list[Neighbours]) -> torch.Tensor:
        """Return the values at points given by their neighbours along each axis."""
        result = [
            self._decision.at_points(self._weigh(frame, [point[first : first + CHUNK_POINTS] for point in points]))
            for first in range(0, points[0].lower.numel(), CHUNK_POINTS)
        ]
        return torch.cat(result)

    def _weigh(self, frame: PaddedSlab, points: list[Neighbours]) -> torch.Tensor:
        """Return the interpolated logits (points, labels)."""
        first = int(points[0].lower.min())
        size = (int(points[0].upper.max()) - first + 1, *frame.cells.shape[1:])
        strides = (size[1] * size[2], size[2], 1)
        index: list[torch.Tensor] = []
        weight: list[torch.Tensor] = []
        sides = [(False, True) if point.share.any() else (False,) for point in points]
        for corner in product(*sides):
            ends = [point.upper if up else point.lower for point, up in zip(points, corner, strict=True)]
            shares = [point.share if up else 1 - point.share for point, up in zip(points, corner, strict=True)]
            index.append((ends[0] - first) * strides[0] + ends[1] * strides[1] + ends[2])
            weight.append(shares[0] * shares[1] * shares[2])
        corners = torch.stack(index, dim=1)
        used = torch.zeros(size[0] * strides[0], dtype=torch.bool, device=self._device)
        used[corners.reshape(-1)] = True
        voxels = torch.nonzero(used)[:, 0]
        position = torch.empty(used.shape, dtype=torch.int32, device=self._device)
        position[voxels] = torch.arange(voxels.numel(), dtype=torch.int32, device=self._device)
        rows = self._rows(frame, voxels, first, strides)
        weights = torch.stack(weight, dim=1)
        return torch.nn.functional.embedding_bag(position[corners], rows, per_sample_weights=weights, mode="sum")

    def _rows(self, frame: PaddedSlab, voxels: torch.Tensor, first: int, strides: tuple[int, int, int]) -> torch.Tensor:
        """Return the activated logits (voxels, labels) of voxels given by their flat indices; 0 beyond the slab."""
        row, rest = first - frame.first + voxels // strides[0], voxels % strides[0]
        where = [row, rest // strides[1], rest % strides[1]]
        where = [index - before for index, before in zip(where, frame.before, strict=True)]
        inside = torch.ones(voxels.shape, dtype=torch.bool, device=self._device)
        for index, length in zip(where, frame.logits.shape[1:], strict=True):
            inside &= (index >= 0) & (index < length)
        where = [index[inside] for index in where]
        scored = frame.logits.movedim(0, -1)[where[0], where[1], where[2]].float()
        rows = torch.zeros(voxels.numel(), frame.logits.shape[0], device=self._device)
        rows[inside] = self._decision.activate(scored)
        return rows

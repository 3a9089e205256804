"""Cut boxes out of a scan along the axes of the head, not of the scan, and mirror them where declared.

A frame is a 4×4 matrix from the scan's mm to those of the head: turned so that its axes are those of the template,
with the scan's own lengths, and mirrored left for right or not. Everything between a voxel of the scan and one of the
network's grid is affine, so labels come back to the scan in one step.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk
from nibabel.affines import from_matvec
from numpy.typing import NDArray
from scipy import ndimage

from tomoseg.data.geometry import Box, Grid
from tomoseg.data.volume import Volume
from tomoseg.inference.localisation.raster import Matrix, canonical, resampled_to, rotation_of, to_array, to_itk

Triple = NDArray[np.float64]  # a number along each of three axes
FINER_SPACING_SHARE = 0.75  # of the crop's spacing: to what voxels less than half as large are averaged
MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Crop:
    """A part of a scan in a frame of the head.

    Attributes:
        volume: its voxels; the grid is in the mm of the frame.
        frame: 4×4, the scan's mm to those of the frame.
        scan: the scan's grid.
    """

    volume: Volume
    frame: Matrix
    scan: Grid

    @property
    def seen(self) -> float:
        """Share of it that the scan covers."""
        to_scan = np.linalg.inv(self.frame @ self.scan.affine) @ self.volume.grid.affine
        return float(within(self.volume.grid.shape, to_scan, self.scan.shape).mean())

    def cut(self, first: NDArray[np.int64], stop: NDArray[np.int64]) -> Crop:
        """Return the part `[first, stop)` of voxel indices, as far as there is one."""
        shape = self.volume.array.shape
        first = np.clip(first, 0, np.array(shape) - 2)
        stop = np.clip(stop, first + 2, shape)
        box = tuple(map(slice, first.tolist(), stop.tolist()))
        return replace(self, volume=replace(self.volume, array=self.volume.array[box], grid=self.volume.grid.part(box)))

    def target(self) -> tuple[Box, Grid] | None:
        """Return the box of the scan's voxels that holds all of it, and their grid in the frame; None for no voxels."""
        to_scan = np.linalg.inv(self.frame @ self.scan.affine) @ self.volume.grid.affine
        corners = _corners(np.full(3, -0.5), np.array(self.volume.grid.shape) - 0.5) @ to_scan.T
        first = np.maximum(np.floor(corners.min(axis=0))[:3], 0).astype(int)
        stop = np.minimum(np.ceil(corners.max(axis=0))[:3] + 1, self.scan.shape).astype(int)
        if (stop <= first).any():
            return None
        i, j, k = map(slice, first.tolist(), stop.tolist())
        return (i, j, k), self.scan_grid.part((i, j, k))

    @property
    def scan_grid(self) -> Grid:
        """The scan's grid in the mm of the frame."""
        return Grid(self.scan.shape, self.frame @ self.scan.affine)

    def covers(self, box: Box) -> NDArray[np.bool_]:
        """Return which of the scan's voxels in a box have their centre in the crop, (I, J, K)."""
        part = self.scan_grid.part(box)
        return within(part.shape, part.index_to(self.volume.grid), self.volume.grid.shape)


def head_frame(matrix: Matrix, mirrored: bool) -> Matrix:
    """Return the frame of a head, of a 4×4 matrix from the template's mm to the scan's."""
    turn = np.ascontiguousarray(rotation_of(matrix).T)  # of a view, the product below is rounded otherwise
    frame: Matrix = from_matvec(turn, -turn @ matrix[:3, 3])
    return MIRROR @ frame if mirrored else frame


def cut_out(scan: Volume, frame: Matrix, first_mm: Triple, last_mm: Triple, spacing_mm: Triple) -> Crop:
    """Resample a box of a scan; beyond the scan its outermost voxels are repeated.

    Args:
        scan: the whole.
        frame: 4×4, the scan's mm to those of the frame.
        first_mm: first corner of the box, (x, y, z) in mm of the frame.
        last_mm: last corner.
        spacing_mm: along (x, y, z) of the frame.
    """
    shape = np.maximum(np.round((last_mm - first_mm) / spacing_mm), 2).astype(int)
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = (first_mm + last_mm) / 2 - (shape - 1) / 2 * spacing_mm
    grid = Grid(shape.tolist(), affine)
    array, scan_affine = canonical(scan.array, scan.grid)
    to_scan = np.linalg.inv(frame @ scan_affine) @ grid.affine
    corners = (_corners(np.zeros(3), shape - 1.0) @ to_scan.T)[:, :3]
    low = np.clip(np.floor(corners.min(axis=0)) - 2, 0, np.array(array.shape) - 2).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + 3, low + 2, array.shape).astype(int)
    part = np.ascontiguousarray(array[tuple(map(slice, low, high))])
    origin = scan_affine.copy()
    origin[:3, 3] += origin[:3, :3] @ low
    image = to_itk(part, origin)
    spacings = zip(spacing_mm, image.GetSpacing(), strict=True)
    finer = [max(1, round(FINER_SPACING_SHARE * wanted / spacing)) for wanted, spacing in spacings]
    if max(finer) > 1:
        image = sitk.BinShrink(image, [min(*pair) for pair in zip(finer, image.GetSize(), strict=True)])
    wanted = to_itk(np.empty(tuple(shape), np.float32), grid.affine)
    voxels = resampled_to(image, wanted, np.asarray(np.linalg.inv(frame), dtype=np.float64), outside=None)
    return Crop(Volume(to_array(voxels), grid, scan.source), frame, scan.grid)


def within(shape: tuple[int, ...], matrix: Matrix, other: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which voxel centres of one array lie in the voxels of another, (I, J, K).

    Args:
        shape: of the one.
        matrix: 4×4, indices of the one to those of the other.
        other: shape of the other.
    """
    axes = [np.arange(size, dtype=np.float64) for size in shape]
    found = np.ones(shape, bool)
    for row, size in zip(matrix[:3], other, strict=True):
        parts = np.ix_(*(axis * step for axis, step in zip(axes, row, strict=False)))
        at = parts[0] + parts[1] + parts[2] + row[3]
        found &= (at >= -0.5) & (at < size - 0.5)
    return found


def _corners(first: Triple, last: Triple) -> NDArray[np.float64]:
    """Return the eight corners of a box as (8, 4), homogeneous."""
    return np.array([(*corner, 1.0) for corner in itertools.product(*zip(first, last, strict=True))])


def nearest(array: NDArray[Any], grid: Grid, target: Grid) -> NDArray[Any]:
    """Return an array (I, J, K) in another grid of the same mm, each voxel as the nearest one; 0 beyond the array."""
    matrix = target.index_to(grid)
    found = ndimage.affine_transform(array, matrix[:3, :3], matrix[:3, 3], target.shape, order=0, mode="grid-constant")
    return np.asarray(found)

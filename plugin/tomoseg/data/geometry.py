"""Voxel grids: the positions of a volume's voxels in the patient.

Coordinates are RAS+ millimetres (x to the right, y to the front, z to the head) and voxel centres lie at integer
indices, as in NIfTI and in nibabel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.orientations import aff2axcodes
from numpy.typing import ArrayLike, NDArray

from tomoseg.core.errors import GeometryError

MAX_ROUNDING_VOXELS = 0.05  # the coordinates of a header are float32, or decimals of 16 characters
Box = tuple[slice, slice, slice]  # of voxels (I, J, K), [start, stop) along each axis


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxel grid of one volume.

    Args:
        shape: number of voxels along the array axes (I, J, K), each at least 1.
        affine: 4×4 matrix from homogeneous voxel indices (i, j, k, 1) to RAS+ mm.

    Raises:
        GeometryError: the shape is not three positive integers, or the affine is not an invertible finite 4×4
            matrix whose last row is (0, 0, 0, 1).

    Example:
        >>> import tomoseg
        >>> import numpy as np
        >>> tomoseg.Grid((40, 56, 40), np.diag([1, 1, 2, 1])).voxel_volume_ml
        0.002
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __init__(self, shape: Sequence[int], affine: ArrayLike) -> None:
        sizes = tuple(int(size) for size in shape)
        if len(sizes) != 3 or min(sizes) < 1:
            raise GeometryError(f"expected a shape of three positive sizes, got {tuple(shape)}")
        matrix = np.array(affine, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.array_equal(matrix[3], (0, 0, 0, 1)):
            raise GeometryError(f"expected a finite 4×4 affine with last row 0 0 0 1, got {matrix.tolist()}")
        # the determinant relative to the axis lengths does not depend on the voxel size: 0 where axes coincide
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
        if lengths.min() == 0 or abs(np.linalg.det(matrix[:3, :3] / lengths)) < 1e-6:
            raise GeometryError("expected an invertible affine, got one whose axes have no length or coincide")
        matrix.setflags(write=False)
        object.__setattr__(self, "shape", sizes)
        object.__setattr__(self, "affine", matrix)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        return self.shape == other.shape and bool(np.array_equal(self.affine, other.affine))

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between neighbouring voxel centres along the array axes (I, J, K)."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return i, j, k

    @property
    def orientation(self) -> str:
        """Directions that the array axes point to, nearest first, as three letters of R/L, A/P and S/I."""
        return "".join(aff2axcodes(self.affine))

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def part(self, box: Sequence[slice]) -> Grid:
        """Return the grid of the voxels in a box, `[start, stop)` along each axis."""
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [side.start for side in box]
        return Grid([side.stop - side.start for side in box], affine)

    def index_to(self, other: Grid) -> NDArray[np.float64]:
        """Return the 4×4 matrix from this grid's voxel indices to those of `other`, which may be fractional."""
        return np.asarray(np.linalg.solve(other.affine, self.affine), dtype=np.float64)

    def distance_mm(self, other: Grid) -> float:
        """Return the largest distance in mm between two voxel centres with the same index."""
        # an affine map deviates most at a corner
        corners = np.array(np.meshgrid(*[(0, size - 1) for size in self.shape], [1], indexing="ij")).reshape(4, -1)
        return float(np.linalg.norm(((self.affine - other.affine) @ corners)[:3], axis=0).max())

    def matches(self, other: Grid, tolerance_mm: float = 1e-3) -> bool:
        """Return whether two grids are the same but for rounding.

        Args:
            other: compared in shape and voxel centres.
            tolerance_mm: largest distance of two voxel centres.
        """
        return self.shape == other.shape and self.distance_mm(other) <= tolerance_mm

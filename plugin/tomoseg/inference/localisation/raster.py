"""Voxels between NumPy and SimpleITK, in RAS+ mm throughout.

ITK's own coordinates are LPS; nothing here is read or written by it, so the space has the same name as elsewhere.
"""

from typing import Any

import numpy as np
import SimpleITK as sitk
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from tomoseg.data.geometry import Grid

Matrix = NDArray[np.float64]  # 4×4

COSINE_TOLERANCE = 1e-12  # of a direction's cosines


def to_itk(array: NDArray[Any], affine: Matrix) -> sitk.Image:
    """Return an image of an array (I, J, K) and its 4×4 matrix from indices to mm."""
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))  # SimpleITK's arrays are (K, J, I)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    direction = affine[:3, :3] / spacing
    direction[np.abs(direction) < COSINE_TOLERANCE] = 0  # ITK's inverse fails on numbers like 1e-294, and says nothing
    image.SetDirection(direction.ravel().tolist())
    return image


def to_array(image: sitk.Image) -> NDArray[Any]:
    """Return the voxels of an image as (I, J, K)."""
    return np.asarray(sitk.GetArrayFromImage(image).transpose(2, 1, 0))


def canonical(array: NDArray[Any], grid: Grid) -> tuple[NDArray[Any], Matrix]:
    """Return a view whose axes point as nearly as they can to the right, the front and the head, and its affine.

    The same scan in any of the 48 orientations becomes the same array, voxel by voxel.
    """
    turn = io_orientation(grid.affine)
    return np.asarray(apply_orientation(array, turn)), np.asarray(grid.affine @ inv_ornt_aff(turn, grid.shape))


def shrunk(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Return the means over boxes of voxels, about as large as the spacing; coarser axes stay."""
    sizes = zip(image.GetSize(), image.GetSpacing(), strict=True)
    factors = [min(count, max(1, round(spacing_mm / spacing))) for count, spacing in sizes]
    return sitk.BinShrink(image, factors)


def resampled_to(
    image: sitk.Image, grid: sitk.Image, matrix: Matrix | None = None, outside: float | None = 0.0
) -> sitk.Image:
    """Return an image in the grid of another, linearly interpolated.

    Args:
        image: the image.
        grid: an image with the grid of the result.
        matrix: 4×4, mm of `grid` to mm of `image`; the identity if left out.
        outside: what lies beyond the image; None for its outermost voxels.
    """
    transform = sitk.Transform(3, sitk.sitkIdentity)
    if matrix is not None:
        transform = sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
    extrapolates = outside is None
    return sitk.Resample(image, grid, transform, sitk.sitkLinear, outside or 0.0, sitk.sitkFloat32, extrapolates)


def rotation_of(matrix: Matrix) -> NDArray[np.float64]:
    """Return the rotation, 3×3, that is nearest to a 4×4 matrix without reflection (its polar decomposition)."""
    left, _, right = np.linalg.svd(matrix[:3, :3])
    return np.asarray(left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right)

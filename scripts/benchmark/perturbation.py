"""Whole heads changed as scanners and patients change them, with a record of where everything went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from tomoseg import Grid, Volume
from tomoseg.inference.localisation.raster import canonical, resampled_to, to_array, to_itk

ANGLE_DEG = 30.0
SHIFT_MM = 50.0
FIELD_MM = (200.0, 240.0, 220.0)  # of view
CUT_MM = 50.0  # from two of its sides, at most
BIAS = 0.4  # of the coefficients of a quadratic in the exponent
NOISE = 0.08  # of bright tissue, at most


def perturb(
    scan: Volume, seed: int, centre_mm: NDArray[np.float64]
) -> tuple[Volume, NDArray[np.float64], dict[str, Any]]:
    """Return a head turned and shifted in a field of view that cuts it, with a bias field and Rician noise.

    Args:
        scan: the head.
        seed: of the changes.
        centre_mm: round which it is turned.

    Returns:
        the scan, the 4×4 matrix from the old mm to the new, and the changes.
    """
    random = np.random.default_rng(seed)
    angles, shift = random.uniform(-ANGLE_DEG, ANGLE_DEG, 3), random.uniform(-SHIFT_MM, SHIFT_MM, 3)
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    moved[:3, 3] = shift - moved[:3, :3] @ centre_mm
    follows = shift * random.uniform(0, 1)  # the field of view is moved to the head, more or less
    first, last = follows - np.array(FIELD_MM) / 2, follows + np.array(FIELD_MM) / 2
    for axis in random.integers(3, size=2):
        cut = random.uniform(0, CUT_MM)
        if random.random() < 0.5:
            first[axis] += cut
        else:
            last[axis] -= cut
    spacing = random.uniform(0.9, 1.5, 3)
    voxels = _sample(scan, first, last, spacing, np.asarray(np.linalg.inv(moved), np.float64))
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, size) for size in voxels.array.shape), indexing="ij", sparse=True)
    terms = (x, y, z, x * x, y * y, z * z, x * y, x * z, y * z)
    bias = np.exp(sum(factor * term for factor, term in zip(random.uniform(-BIAS, BIAS, 9), terms, strict=True)))
    bright = float(np.quantile(scan.array[scan.array > 0.1 * scan.array.max()], 0.9))
    noise = random.uniform(0, NOISE)
    real, imaginary = (noise * bright * random.standard_normal(voxels.array.shape) for _ in range(2))
    array = np.hypot(voxels.array * bias + real, imaginary).astype(np.float32)
    reported = {"angles_deg": angles.round().tolist(), "shift_mm": shift.round().tolist(), "noise": round(noise, 3)}
    return replace(voxels, array=array), moved, reported


def resample(scan: Volume, spacing_mm: Sequence[float]) -> Volume:
    """Return a scan on a grid along its nearest axes, means of its voxels where the grid is coarser."""
    array, affine = canonical(scan.array, scan.grid)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    sigma = [0.5 * np.sqrt(max(new * new - old * old, 0)) / old for new, old in zip(spacing_mm, spacing, strict=True)]
    image = sitk.SmoothingRecursiveGaussian(
        to_itk(array, affine), [max(s * old, 1e-3) for s, old in zip(sigma, spacing, strict=True)]
    )
    size = [int(count * old / new) for count, old, new in zip(array.shape, spacing, spacing_mm, strict=True)]
    grid = sitk.Image(size, sitk.sitkFloat32)
    grid.SetSpacing(list(spacing_mm))
    grid.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    grid.SetOrigin((affine[:3, 3] + affine[:3, :3] @ ((np.array(spacing_mm) / spacing - 1) / 2)).tolist())
    voxels = to_array(resampled_to(image, grid))
    new = np.array(affine)
    new[:3, :3] = affine[:3, :3] / spacing * spacing_mm
    new[:3, 3] = grid.GetOrigin()
    return replace(scan, array=np.ascontiguousarray(voxels), grid=Grid(voxels.shape, new), header=None, series=None)


def _sample(
    scan: Volume,
    first: NDArray[np.float64],
    last: NDArray[np.float64],
    spacing: NDArray[np.float64],
    to_scan: NDArray[np.float64],
) -> Volume:
    grid = sitk.Image(((last - first) / spacing).astype(int).tolist(), sitk.sitkFloat32)
    grid.SetSpacing(spacing.tolist())
    grid.SetOrigin(first.tolist())
    voxels = np.ascontiguousarray(to_array(resampled_to(to_itk(*canonical(scan.array, scan.grid)), grid, to_scan)))
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = first
    return replace(scan, array=voxels, grid=Grid(voxels.shape, affine), header=None, series=None)

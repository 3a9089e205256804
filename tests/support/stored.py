"""Small volumes in files of any format, for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from tomoseg import Grid

SHAPE = (6, 7, 8)
GRID = Grid(SHAPE, np.diag([1.5, 1.5, 3.0, 1.0]))


def save(path: Path, array: NDArray[Any], grid: Grid = GRID) -> Path:
    """Write a volume in the format of the path's suffix; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii", ".nii.gz")):
        image = nib.Nifti1Image(array, grid.affine)
        image.set_qform(grid.affine, 1)
        nib.save(image, path)
        return path
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    affine = np.diag([-1, -1, 1, 1]) @ grid.affine
    image.SetSpacing(grid.spacing)
    image.SetDirection((affine[:3, :3] / grid.spacing).ravel())
    image.SetOrigin(affine[:3, 3])
    sitk.WriteImage(image, path)
    return path


def noise(dtype: str = "int16", shape: tuple[int, ...] = SHAPE, seed: int = 0) -> NDArray[Any]:
    """Return integers from 0 to 99 that differ with the seed."""
    return np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)

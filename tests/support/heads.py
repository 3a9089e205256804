"""Whole heads for tests: unchanged, turned, and cropped."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from tomoseg import Grid, Volume
from tomoseg.inference.localisation.template import template_files

MRICRON = Path("/usr/share/mricron/templates")


def mni152() -> Path:
    """The file of the MNI152 head, 1 mm, without skull."""
    return template_files()[0]


def colin27(name: str) -> Path:
    """A file of Debian's mricron-data: "ch2.nii.gz", "aal.nii.gz"."""
    path = MRICRON / name
    if not path.is_file() and not os.environ.get("CI"):
        pytest.skip(f"{path} is not there; apt-get install mricron-data")
    return path


def moved(scan: Volume, angles_deg: tuple[float, float, float], shift_mm: NDArray[np.float64]) -> Volume:
    """Return a head that lies elsewhere: the same voxels, in an oblique grid."""
    from scipy.spatial.transform import Rotation

    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
    motion[:3, 3] = shift_mm
    return Volume(scan.array, Grid(scan.array.shape, motion @ scan.grid.affine), "moved head")


def halved(path: Path, target: Path) -> Path:
    """Write every other voxel of a NIfTI file."""
    image = nib.load(path)
    nib.save(image.slicer[::2, ::2, ::2], target)
    return target

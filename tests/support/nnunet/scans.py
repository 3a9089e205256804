"""Scans drawn from formulas, in several orientations and spacings; no patient's data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray
from scipy.special import expit

Array = NDArray[np.float32]
MR_SIZE, CT_SIZE = (44.0, 60.0, 46.0), (200.0, 200.0, 120.0)  # mm


def brain(x: Array, y: Array, z: Array) -> Array:
    """Draw a T1 crop with a bent bright body as long as a hippocampus; x, y, z in mm from the centre."""
    tissue = 420 + 60 * np.sin(x / 7) * np.cos(y / 9) + 50 * np.cos(z / 6 + x / 11)
    bend = ((x - y**2 / 90 + 2) / 7.5) ** 2 + (y / 21) ** 2 + ((z + y / 6 + y**2 / 160 - 1) / 6.5) ** 2
    fluid = ((x + 8) / 4) ** 2 + ((y + 4) / 15) ** 2 + ((z - 10) / 3.5) ** 2
    drawn: Array = tissue + 170 * expit(8 * (1 - bend)) - 300 * expit(6 * (1 - fluid))
    return drawn


def head(x: Array, y: Array, z: Array) -> Array:
    """Draw a CT of a head in HU: skin, bone of skull and jaw, brain, a cord in a canal."""
    skin = (x / 78) ** 2 + (y / 92) ** 2 + (z / 200) ** 2
    hu = np.where(skin < 1, 40.0 + 15 * np.sin(x / 9) * np.sin(y / 8) * np.sin(z / 10), -1000.0)
    skull = (x / 70) ** 2 + (y / 84) ** 2 + ((z - 30) / 75) ** 2
    hu = np.where((skull < 1) & (skull > 0.86), 900.0, hu)
    jaw = np.abs(np.hypot(x / 46, (y - 20) / 58) - 1) < 0.1
    hu = np.where(jaw & (y > 12) & (np.abs(z + 28) < 14), 1000.0, hu)
    canal = np.hypot(x, y + 28)
    hu = np.where((z < 10) & (canal < 17), np.where(canal < 8, 35.0, 600.0), hu)
    for side in (-1, 1):
        gland = ((x - side * 54) / 11) ** 2 + ((y - 2) / 16) ** 2 + ((z + 14) / 22) ** 2
        hu = np.where(gland < 1, -20.0, hu)
    return hu


def write_scan(
    path: Path, draw: Callable[..., Array], spacing: tuple[float, ...], axcodes: str, margin: int = 0
) -> Path:
    """Write a scan.

    Args:
        path: of the NIfTI file.
        draw: returns intensities at positions to the right, forwards and upwards, mm.
        spacing: along right, forward and up, mm.
        axcodes: orientation of the stored array.
        margin: voxels of exactly 0 around the scan.
    """
    size = MR_SIZE if draw is brain else CT_SIZE
    shape = [round(length / step) for length, step in zip(size, spacing, strict=True)]
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing, strict=True)]
    array: Any = draw(*np.meshgrid(*axes, indexing="ij"))
    # noise, so that nothing is flat; integers, as scanners store
    array = np.round(array + np.random.default_rng(26).normal(0, 12, array.shape)).astype(np.int16)
    if margin:
        array = np.pad(array, margin)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [axis[0] for axis in axes]
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(axcodes)))
    image = nib.Nifti1Image(array, affine).as_reoriented(turn)
    assert np.allclose(image.affine, affine @ inv_ornt_aff(turn, array.shape))
    image.set_qform(image.affine, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


SCANS: dict[str, tuple[Callable[..., Array], tuple[float, ...], str, int]] = {
    "mr_ras": (brain, (1.0, 1.0, 1.0), "RAS", 0),
    "mr_fine_lps": (brain, (0.8, 0.9, 1.1), "LPS", 3),
    "mr_thick": (brain, (0.9, 0.9, 4.0), "RAS", 0),
    "mr_sagittal": (brain, (1.2, 0.8, 0.8), "PIR", 0),
    "ct_ras": (head, (2.0, 2.0, 2.5), "RAS", 0),
    "ct_lps": (head, (3.0, 3.0, 3.0), "LPS", 0),
}


def write_scans(folder: Path) -> dict[str, Path]:
    """Write all the scans; return their paths by name."""
    return {name: write_scan(folder / f"{name}.nii.gz", *how) for name, how in SCANS.items()}

"""Scans drawn from formulas, in several orientations and spacings; no patient's data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray
from scipy.special import expit

Array = NDArray[np.float32]
MR_SIZE, CT_SIZE = (44.0, 60.0, 46.0), (280.0, 280.0, 260.0)  # mm


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


@dataclass(frozen=True)
class Scan:
    """How a scan is drawn.

    Attributes:
        draw: returns intensities at positions to the right, forwards and upwards, mm.
        spacing: along right, forward and up, mm.
        axcodes: orientation of the stored array.
        margin: voxels of exactly 0 around the scan.
        tilt: of the slices about the left-right axis, degrees.
    """

    draw: Callable[..., Array]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    axcodes: str = "RAS"
    margin: int = 0
    tilt: float = 0.0


# most are finer than the networks' grids: many voxels of labels for little time
SCANS = {
    "mr_ras": Scan(brain),
    "mr_fine": Scan(brain, (0.5, 0.6, 0.7), "LPS", margin=3),
    "mr_thick": Scan(brain, (0.45, 0.45, 4.0)),
    "mr_sagittal": Scan(brain, (1.2, 0.5, 0.5), "PIR"),
    "mr_oblique": Scan(brain, (0.6, 0.5, 0.8), "LPS", tilt=14),
    "ct_ras": Scan(head, (2.0, 2.0, 2.5)),
    "ct_oblique": Scan(head, (2.5, 2.5, 2.0), "LPS", tilt=-8),
}


def write_scan(path: Path, scan: Scan) -> Path:
    """Write a scan as NIfTI."""
    size = MR_SIZE if scan.draw is brain else CT_SIZE
    shape = [round(length / step) for length, step in zip(size, scan.spacing, strict=True)]
    cosine, sine = np.cos(np.radians(scan.tilt)), np.sin(np.radians(scan.tilt))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) @ np.diag(scan.spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    array: Any = scan.draw(
        *np.einsum("ij,jxyz->ixyz", affine[:3, :3], np.indices(shape)) + affine[:3, 3, None, None, None]
    )
    # noise, so that nothing is flat; integers, as scanners store
    array = np.round(array + np.random.default_rng(26).normal(0, 12, array.shape)).astype(np.int16)
    array = np.pad(array, scan.margin)
    affine[:3, 3] -= affine[:3, :3].sum(1) * scan.margin
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(scan.axcodes)))
    image = nib.Nifti1Image(array, affine).as_reoriented(turn)
    image.set_qform(image.affine, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def write_scans(folder: Path) -> dict[str, Path]:
    """Write all the scans; return their paths by name."""
    return {name: write_scan(folder / f"{name}.nii.gz", scan) for name, scan in SCANS.items()}

"""CTs of head and neck for tests, with a table around the patient and metal in the teeth."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from numpy.typing import NDArray
from scipy import ndimage
from skimage.transform import iradon, radon

from support.bundles import voxels

CRANIUM = Path("/usr/share/doc/invesalius-examples/examples/Cranium.inv3")
AIR, WATER_PER_MM = -1000.0, 0.02  # HU; attenuation of water at the energies of a CT, per mm


def cranium() -> Any:
    """A patient's head from the upper teeth to the vertex, in a head rest (Debian's invesalius-examples)."""
    if not CRANIUM.is_file() and not os.environ.get("CI"):
        pytest.skip(f"{CRANIUM} is not there; apt-get install invesalius-examples")
    with tarfile.open(CRANIUM) as archive:
        (member,) = (member for member in archive if member.name.endswith("matrix.dat"))
        stored = archive.extractfile(member)
        assert stored is not None
        array = np.frombuffer(stored.read(), np.int16).reshape(108, 256, 256)  # upwards, forwards, and across
    return nib.Nifti1Image(np.ascontiguousarray(array.transpose(2, 1, 0)), np.diag([0.957, 0.957, 1.5, 1.0]))


def finer(image: Any, spacing_mm: tuple[float, float, float]) -> Any:
    """Resample a scan linearly to the voxels that scanners give."""
    coarse, fine = np.array(image.header.get_zooms()), np.array(spacing_mm)
    affine = image.affine.copy()
    affine[:3, :3] = affine[:3, :3] / coarse * fine
    shape = tuple(np.ceil(np.array(image.shape) * coarse / fine).astype(int))
    return resample_from_to(image, (shape, affine), order=1, cval=AIR)


def on_a_couch(image: Any) -> Any:
    """Add a couch of two plates with foam, and a thermoplastic mask that stands off the skin by 6 mm.

    Args:
        image: CT in HU, axes to the right, forwards and upwards.
    """
    array, zooms = voxels(image).astype(np.float32), np.array(image.header.get_zooms())
    skin = array > -400
    distance = ndimage.distance_transform_edt(~skin, sampling=zooms)
    upper = np.zeros_like(skin)  # a mask covers the front of head and shoulders
    upper[:, array.shape[1] // 2 :] = True
    array[upper & (distance > 6) & (distance <= 9)] = 0
    behind = int(25 / zooms[1]) + 2  # voxels of a couch of 25 mm
    below = np.full((array.shape[0], behind, array.shape[2]), AIR, np.float32)
    across = slice(array.shape[0] // 10, -(array.shape[0] // 10))
    below[across, 1:-1] = -950
    below[across, 1] = below[across, -2] = -100
    affine = image.affine.copy()
    affine[:3, 3] -= affine[:3, 1] * behind
    return nib.Nifti1Image(np.concatenate([below, array], axis=1), affine)


def with_metal(image: Any, teeth_mm: NDArray[np.float64], thickness_mm: float) -> Any:
    """Add fillings, and the streaks that come of them: too few photons pass to measure by.

    Args:
        image: CT in HU, axes to the right, forwards and upwards.
        teeth_mm: centres of the fillings in the image's space, shape (n, 3).
        thickness_mm: how far up and down from them slices have metal.
    """
    array, zooms = voxels(image).astype(np.float32), np.array(image.header.get_zooms())
    centres = (teeth_mm - image.affine[:3, 3]) @ np.linalg.inv(image.affine[:3, :3]).T
    reach = thickness_mm / zooms[2]
    low, high = int(max(centres[:, 2].min() - reach, 0)), int(centres[:, 2].max() + reach) + 1
    x, y = np.meshgrid(*(np.arange(size) for size in array.shape[:2]), indexing="ij")
    angles = np.linspace(0, 180, 180, endpoint=False)
    rng = np.random.default_rng(0)
    for index in range(low, min(high, array.shape[2])):
        plane = array[:, :, index].copy()
        for centre in centres:
            plane[np.hypot((x - centre[0]) * zooms[0], (y - centre[1]) * zooms[1]) < 5] = 20000
        attenuation = np.clip(plane / 1000 + 1, 0, None) * WATER_PER_MM * zooms[0]
        lines = radon(attenuation, angles, circle=False)
        photons = rng.poisson(2e4 * np.exp(-lines))
        measured = -np.log(np.maximum(photons, 1) / 2e4)
        seen = iradon(measured, angles, circle=False, output_size=max(plane.shape))
        margin = (np.array(seen.shape) - plane.shape) // 2
        seen = seen[margin[0] : margin[0] + plane.shape[0], margin[1] : margin[1] + plane.shape[1]]
        hu = (seen / (WATER_PER_MM * zooms[0]) - 1) * 1000
        array[:, :, index] = np.clip(hu, -1024, 3071)
    return nib.Nifti1Image(array, image.affine)

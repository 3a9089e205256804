"""Smooth blobs in HU, as a plain scan and as one with other axes, anisotropic and oblique."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform


def blobs() -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """Return both scans, int16 of about 40×36×30 voxels; they have the same voxels in another order."""
    i, j, k = np.indices((40, 36, 30))
    hounsfield = -1000 + 1500 * np.exp(-((i - 14) ** 2 + (j - 20) ** 2 + (k - 12) ** 2) / 150)
    hounsfield += 900 * np.exp(-((i - 28) ** 2 + (j - 10) ** 2 + (k - 20) ** 2) / 60)
    angle = np.deg2rad(12)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    plain = nib.Nifti1Image(hounsfield.astype("int16"), np.diag([1.5, 1.5, 1.5, 1]))
    turned = plain.as_reoriented(ornt_transform(io_orientation(plain.affine), axcodes2ornt(("P", "I", "R"))))
    return plain, nib.Nifti1Image(turned.dataobj, tilt @ turned.affine @ np.diag([1, 0.6, 1.7, 1]))

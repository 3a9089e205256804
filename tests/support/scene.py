"""A scene that is known at every point of the patient, scans of it in any grid, and a bundle that can segment it.

What a scan has to be segmented into follows from the scene and from the affine that the scan was made with, in a few
lines of NumPy; none of tomoseg's own code takes part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import SimpleITK as sitk
import torch
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from support.dicoms import RAS_TO_LPS, write_enhanced, write_series
from tomoseg import Grid

PEAK = 400.0  # in the middle of the first body; minus this in the middle of the second
EDGE = PEAK * np.exp(-1.5)
LABELS = (1, 2)
NETWORK_SPACING_MM = 1.5
GAIN = 0.02  # of the scores; so low that the soft-max is nearly straight from one voxel to the next


@dataclass(frozen=True)
class Body:
    """A Gaussian whose edge is an ellipsoid.

    The edge lies √3 standard deviations from the centre, where the second derivatives add up to 0: linear interpolation
    on voxels of 3 mm moves the edge of any other softness, or of a distance, further than that of this one.

    Attributes:
        centre: RAS+ mm.
        radii: half axes of the edge, mm.
        turned: of the axes around x, y and z, degrees.
    """

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    turned: tuple[float, float, float]

    def at(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the value at points (3, ...) in RAS+ mm: 1 in the middle, exp(-1.5) at the edge."""
        across = rotation(self.turned).T / np.array(self.radii)[:, None]
        offset = across @ np.array(self.centre)
        places = np.tensordot(across, points, 1) - offset.reshape(3, *[1] * (points.ndim - 1))
        return np.asarray(np.exp(-1.5 * (places**2).sum(axis=0)))


# Far from the origin, so that a sign forgotten takes the bodies out of the scan; of about 12 mm, so that 0.6 mm
# make a difference of more than 3 % and voxels of 3 mm one of less; the longest axis of each lies across that of the
# other, so that no shift goes along both.
CENTRE = np.array([47.0, -61.0, 83.0])
EXTENT_MM = 58.0
BODIES = (
    Body((35.5, -52.5, 87.5), (14.0, 11.0, 10.0), (25.0, -35.0, 15.0)),
    Body((58.5, -69.0, 78.5), (10.5, 11.0, 14.0), (-20.0, 30.0, 40.0)),
)


def values_at(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scene's values at points (3, ...) in RAS+ mm."""
    first, second = (body.at(points) for body in BODIES)
    return PEAK * (first - second)


def labels_of(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the label that each value of the scene belongs to."""
    return np.select([values > EDGE, values < -EDGE], LABELS).astype(np.uint8)


def voxel_centres(shape: Sequence[int], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the RAS+ mm of all voxels, (3, I, J, K)."""
    return np.tensordot(affine[:3, :3], np.indices(shape), 1) + affine[:3, 3].reshape(3, 1, 1, 1)


def rotation(degrees: Sequence[float]) -> NDArray[np.float64]:
    """Return the 3×3 matrix of a rotation around x, y and z."""
    return np.asarray(Rotation.from_euler("xyz", degrees, degrees=True).as_matrix())


def scan_grid(
    orientation: str,
    spacing: Sequence[float],
    tilt: Sequence[float] = (0, 0, 0),
    shear: Sequence[float] = (0, 0),
    middle: Sequence[float] = (0, 0, 0),
) -> Grid:
    """Return a grid that just holds the scene.

    Args:
        orientation: where the array axes point to before the tilt, as three letters.
        spacing: mm along the array axes; that of the third is the distance between its planes.
        tilt: around x, y and z, degrees.
        shear: mm by which the planes of the third axis move along the first and the second, for each mm between them.
        middle: of the grid, mm off the scene's.
    """
    shape = tuple(int(np.ceil(EXTENT_MM / step)) + 1 for step in spacing)
    ornt = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(orientation))
    sheared = np.eye(3)
    sheared[:2, 2] = shear
    affine = np.eye(4)
    affine[:3, :3] = rotation(tilt) @ inv_ornt_aff(ornt, (1, 1, 1))[:3, :3] @ sheared * spacing
    affine[:3, 3] = CENTRE + middle - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Grid(shape, affine)


def turned(grid: Grid, orientation: str) -> Grid:
    """Return the same voxels with other array axes; "RAS" changes nothing."""
    ornt = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(orientation))
    shape = apply_orientation(np.empty(grid.shape, bool), ornt).shape
    return Grid(shape, grid.affine @ inv_ornt_aff(ornt, grid.shape))


def write_scan(folder: Path, grid: Grid, kind: str) -> Path:
    """Write a scan of the scene; return its path.

    Args:
        folder: made if it is not there.
        grid: the scan's; sheared only for the kinds in `SHEARED`.
        kind: one of `KINDS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    grid = Grid(grid.shape, _HELD.get(kind, np.array)(grid.affine))
    stored = np.round((values_at(voxel_centres(grid.shape, grid.affine)) - INTERCEPT) / SLOPE).astype(np.int16)
    return KINDS[kind](folder, stored, grid)


def _sform(folder: Path, stored: NDArray[np.int16], grid: Grid) -> Path:
    image = nib.Nifti1Image(_scaled(stored), grid.affine)
    image.set_sform(grid.affine, 1)
    image.set_qform(None, 0)
    return _saved(image, folder / "sform.nii")


def _qform(folder: Path, stored: NDArray[np.int16], grid: Grid) -> Path:
    image = nib.Nifti1Image(_scaled(stored), None)
    image.set_qform(grid.affine, 1)
    image.set_sform(None, 0)
    return _saved(image, folder / "qform.nii.gz")


def as_a_qform(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what a quaternion in float32 holds of an affine; near 180° that is up to 0.06° beside it."""
    header = nib.Nifti1Header()
    header.set_qform(affine, 1)
    return np.asarray(header.get_qform())


def _saved(image: nib.Nifti1Image, path: Path) -> Path:
    nib.save(image, path)
    return path


def _nrrd_in_lps(folder: Path, stored: NDArray[np.int16], grid: Grid) -> Path:
    return _nrrd(folder / "lps.nrrd", stored, RAS_TO_LPS @ grid.affine[:3], "left-posterior-superior")


def _nrrd_in_ras(folder: Path, stored: NDArray[np.int16], grid: Grid) -> Path:
    return _nrrd(folder / "ras.nrrd", stored, grid.affine[:3], "right-anterior-superior")


def _nrrd(path: Path, stored: NDArray[np.int16], affine: NDArray[np.float64], space: str) -> Path:
    header = {
        "space": space,
        "space directions": affine[:, :3].T,
        "space origin": affine[:, 3],
        "kinds": ["domain"] * 3,
        "encoding": "raw",
    }
    nrrd.write(str(path), _scaled(stored), header)
    return path


def _metaimage(folder: Path, stored: NDArray[np.int16], grid: Grid) -> Path:
    image = sitk.GetImageFromArray(_scaled(stored).transpose(2, 1, 0))
    image.SetSpacing(grid.spacing)
    image.SetDirection((RAS_TO_LPS @ grid.affine[:3, :3] / grid.spacing).ravel().tolist())
    image.SetOrigin((RAS_TO_LPS @ grid.affine[:3, 3]).tolist())
    sitk.WriteImage(image, str(folder / "scan.mha"))
    return folder / "scan.mha"


def _series(folder: Path, stored: NDArray[np.int16], grid: Grid) -> Path:
    write_series(folder / "series", stored, grid, slope=SLOPE, intercept=INTERCEPT)
    return folder / "series"


def _enhanced(folder: Path, stored: NDArray[np.int16], grid: Grid) -> Path:
    return write_enhanced(folder / "enhanced.dcm", stored, grid, slope=SLOPE, intercept=INTERCEPT)


def _scaled(stored: NDArray[np.int16]) -> NDArray[np.float32]:
    return (stored * SLOPE + INTERCEPT).astype(np.float32)


SLOPE, INTERCEPT = 0.02, -30.0
KINDS: dict[str, Callable[[Path, NDArray[np.int16], Grid], Path]] = {
    "NIfTI with an sform": _sform,
    "NIfTI with a qform": _qform,
    "NRRD in LPS": _nrrd_in_lps,
    "NRRD in RAS": _nrrd_in_ras,
    "MetaImage": _metaimage,
    "DICOM series": _series,
    "multi-frame DICOM": _enhanced,
}
_HELD = {"NIfTI with a qform": as_a_qform}  # where that is not the whole affine
SHEARED = {"NIfTI with an sform", "NRRD in LPS", "NRRD in RAS", "DICOM series", "multi-frame DICOM"}


def write_bundle(root: Path, preprocessing: Sequence[str]) -> Path:
    """Write a bundle whose network recognises the bodies by their values; return its folder.

    Args:
        root: made if it is not there.
        preprocessing: the spatial steps in their order, of "orientation" and "spacing".
    """
    (root / "configs").mkdir(parents=True)
    (root / "models").mkdir()
    channels = {"0": "background", "1": "first", "2": "second"}
    metadata = {"version": "0.1.0", "network_data_format": {"outputs": {"pred": {"channel_def": channels}}}}
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (root / "configs" / "inference.json").write_text(json.dumps(_inference(preprocessing)))
    # score by score: 0, value - edge, -value - edge
    weights = {
        "weight": GAIN * torch.tensor([0.0, 1.0, -1.0]).reshape(3, 1, 1, 1, 1),
        "bias": GAIN * EDGE * torch.tensor([0.0, -1.0, -1.0]),
    }
    torch.save(weights, root / "models" / "model.pt")
    return root


SPATIAL: dict[str, dict[str, Any]] = {
    "orientation": {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
    "spacing": {"_target_": "Spacingd", "keys": "image", "pixdim": [NETWORK_SPACING_MM] * 3, "mode": "bilinear"},
}


def _inference(preprocessing: Sequence[str]) -> dict[str, Any]:
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "device": "$torch.device('cpu')",
        "network_def": {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 3, "kernel_size": 1},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                *(SPATIAL[step] for step in preprocessing),
                {"_target_": "EnsureTyped", "keys": "image"},
            ],
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": [24, 28, 32],  # smaller than the scene
            "sw_batch_size": 4,
            "overlap": 0.25,
            "mode": "gaussian",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": False,
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "eval"},
            ],
        },
        "checkpointloader": {
            "_target_": "CheckpointLoader",
            "load_path": "$@bundle_root + '/models/model.pt'",
            "load_dict": {"model": "@network"},
        },
    }

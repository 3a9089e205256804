"""One scan in memory, checked, whatever it was read from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from tomoseg.errors import GeometryError, VolumeError, one_line
from tomoseg.geometry import Grid
from tomoseg.volumes.nifti import load_nifti, read_voxels

if TYPE_CHECKING:
    import SimpleITK as sitk

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan with one value a voxel.

    Args:
        array: (I, J, K) float32, finite.
        grid: where the voxels lie; its shape is the array's.
        source: what errors and reports call it: the path, or "image in memory".
        header: the NIfTI header it came with, if any; a label map written for this scan keeps its qform, sform and
            units.
    """

    array: NDArray[np.float32]
    grid: Grid
    source: str
    header: nib.Nifti1Header | None = None


def read_volume(source: str | os.PathLike[str] | nib.spatialimages.SpatialImage | sitk.Image) -> Volume:
    """Read a scan and check that it is one finite 3D volume.

    Args:
        source: path of a NIfTI file (.nii or .nii.gz), a nibabel image, or a SimpleITK image.

    Raises:
        VolumeError: it is missing, empty, truncated, no NIfTI, not 3D, not real-valued, or holds non-finite values.
    """
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        return _from_nibabel(load_nifti(Path(source)), name)
    if isinstance(source, nib.spatialimages.SpatialImage):
        return _from_nibabel(source, "image in memory")
    if type(source).__module__.startswith("SimpleITK"):
        return _from_simpleitk(source)
    raise VolumeError(
        f"expected a path, a nibabel image or a SimpleITK image, got {type(source).__module__}.{type(source).__name__}"
    )


def _from_nibabel(image: nib.spatialimages.SpatialImage, name: str) -> Volume:
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:  # (I, J, K, 1) is one volume, too
        shape = shape[:-1]
    if len(shape) > 3:
        raise VolumeError(
            f"{name}: expected one 3D volume, got {len(shape)}D {_by(shape)}; split it into volumes first"
        )
    if len(shape) < 3 or min(shape) < 2:
        raise VolumeError(
            f"{name}: expected a 3D volume, got a 2D image or a single line of voxels, {_by(image.shape)}"
        )
    dtype = image.get_data_dtype()
    if not (np.issubdtype(dtype, np.integer) or np.issubdtype(dtype, np.floating)):
        raise VolumeError(
            f"{name}: expected one real value a voxel, got the type {dtype}; convert it to grey values first"
        )
    header = image.header if isinstance(image.header, nib.Nifti1Header) else None
    return _checked(read_voxels(image, name).reshape(shape), image.affine, name, header)


def _from_simpleitk(image: Any) -> Volume:
    import SimpleITK as sitk

    name = "image in memory"
    if image.GetDimension() != 3 or min(image.GetSize()) < 2 or image.GetNumberOfComponentsPerPixel() != 1:
        raise VolumeError(
            f"{name}: expected a 3D volume with one value a voxel, got {_by(image.GetSize())} "
            f"with {image.GetNumberOfComponentsPerPixel()} values"
        )
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    # SimpleITK's arrays are (K, J, I) and its coordinates are LPS mm
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    return _checked(array, LPS_TO_RAS @ affine, name, None)


def _checked(array: NDArray[Any], affine: NDArray[Any], name: str, header: nib.Nifti1Header | None) -> Volume:
    try:
        grid = Grid(array.shape, affine)
    except GeometryError as error:
        raise VolumeError(f"{name}: {one_line(error)}; its header is damaged") from error
    with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes infinite, and is counted below
        values = np.asarray(array, dtype=np.float32)
    broken = values.size - int(np.count_nonzero(np.isfinite(values)))
    if broken:
        raise VolumeError(
            f"{name}: expected finite values, got NaN or infinity in {broken} of {values.size} voxels; "
            "replace them first"
        )
    return Volume(array=values, grid=grid, source=name, header=header)


def _by(sizes: tuple[int, ...]) -> str:
    return "×".join(str(size) for size in sizes)

"""NIfTI files: read with every way of being damaged told apart, and written whole or not at all."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from tomoseg.errors import OutputError, VolumeError, one_line
from tomoseg.files import atomic_file
from tomoseg.geometry import Grid

VOLUME_SUFFIXES = (".nii.gz", ".nii")

# deflate shrinks by at most 1032:1 (https://zlib.net/zlib_tech.html), so a header that declares more than this
# is damaged, and must not make anybody reserve the memory it asks for
DEFLATE_LIMIT = 1032
GZIP_LEVEL = 1  # of 0 to 3; a label map is as small as with zlib's 1, in a fifth of the time


def strip_suffix(name: str) -> str:
    """Return a file's name without .nii or .nii.gz."""
    for suffix in VOLUME_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def load_nifti(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI file and check that its voxels can all be there, without reading them.

    Raises:
        VolumeError: the file is missing, empty, too short for its header, or no NIfTI.
    """
    if path.is_dir():
        raise VolumeError(f"{path}: expected a NIfTI file (.nii or .nii.gz), got a folder")
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise VolumeError(f"{path}: no such file; expected a NIfTI volume (.nii or .nii.gz)") from error
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read: {one_line(error)}") from error
    if size == 0:
        raise VolumeError(f"{path}: the file is empty; expected a NIfTI volume")
    try:
        image = nib.load(path)
        declared = math.prod(image.shape) * image.get_data_dtype().itemsize
    except (ImageFileError, HeaderDataError) as error:
        raise VolumeError(
            f"{path}: expected a NIfTI volume (.nii or .nii.gz), got something else or a damaged file"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise VolumeError(f"{path}: cannot be read: {one_line(error)}") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise VolumeError(f"{path}: its NIfTI header is damaged: {one_line(error)}") from error
    if not isinstance(image, nib.Nifti1Image):  # Nifti2Image is a subclass
        raise VolumeError(f"{path}: expected a NIfTI volume (.nii or .nii.gz), got {type(image).__name__}")
    possible = size * (DEFLATE_LIMIT if path.name.lower().endswith(".gz") else 1)
    if declared > possible:
        raise VolumeError(
            f"{path}: truncated or damaged: the header declares {declared} bytes of voxels, the file has {size} bytes"
        )
    return image


def read_voxels(image: nib.spatialimages.SpatialImage, name: str) -> NDArray[Any]:
    """Return the voxels with the header's slope and intercept applied.

    Raises:
        VolumeError: the file ends too early or is damaged.
    """
    try:
        return np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise VolumeError(f"{name}: truncated or damaged: {one_line(error)}") from error


def write_label_map(
    path: Path, labels: NDArray[np.unsignedinteger[Any]], grid: Grid, like: nib.Nifti1Header | None
) -> None:
    """Write a label map as NIfTI, atomically.

    Args:
        path: ends in .nii or .nii.gz.
        labels: (I, J, K), or (I, J, K, label) where labels may overlap, uint8 or uint16.
        grid: the scan's grid.
        like: the scan's header, whose qform, sform and units are kept.

    Raises:
        OutputError: the name has another suffix, or the file cannot be written.
    """
    _write(path, labels, grid, like, "label")


def write_map(path: Path, values: NDArray[np.float32], grid: Grid, like: nib.Nifti1Header | None) -> None:
    """Write a number for each voxel, (I, J, K) float32, as NIfTI; otherwise as `write_label_map`."""
    _write(path, values, grid, like, "estimate")


def _write(path: Path, array: NDArray[Any], grid: Grid, like: nib.Nifti1Header | None, intent: str) -> None:
    if not path.name.lower().endswith(VOLUME_SUFFIXES):
        raise OutputError(f"{path}: expected a name that ends in .nii.gz or .nii")
    image_type = nib.Nifti2Image if isinstance(like, nib.Nifti2Header) else nib.Nifti1Image
    image = image_type(array, grid.affine, header=like)
    header = image.header
    header.set_data_dtype(array.dtype)
    header["cal_min"] = header["cal_max"] = 0  # display limits of the scan mean nothing here
    header["descrip"] = b""
    header["aux_file"] = b""
    header["db_name"] = b""
    header.set_intent(intent)
    header.extensions = type(header.extensions)()  # may hold anything, the patient's name included
    with atomic_file(path) as temporary, temporary.open("wb") as raw:
        if path.name.lower().endswith(".gz"):
            # no time and no name in the file: one result is one sequence of bytes
            with igzip.IGzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=raw, mtime=0) as zipped:
                image.to_stream(zipped)
        else:
            image.to_stream(raw)

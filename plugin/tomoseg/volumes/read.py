"""A scan, whatever it is stored in."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib

from tomoseg.errors import VolumeError, one_line
from tomoseg.volumes.formats import ITK_SUFFIXES, has_suffix
from tomoseg.volumes.itk_image import from_itk, read_itk
from tomoseg.volumes.nifti import from_nibabel, read_nifti
from tomoseg.volumes.search import is_dicom
from tomoseg.volumes.volume import Volume, refuse_non_finite

if TYPE_CHECKING:
    import SimpleITK as sitk

EXPECTED = "a NIfTI, NRRD or MetaImage file, or a DICOM series"


def read_volume(
    source: str | os.PathLike[str] | nib.spatialimages.SpatialImage | sitk.Image,
    series: str | None = None,
    *,
    allow_non_finite: bool = False,
) -> Volume:
    """Read a scan and check that it is one finite 3D volume.

    Args:
        source: path of a NIfTI file (.nii, .nii.gz), NRRD file (.nrrd, .nhdr), MetaImage file (.mha, .mhd), of a folder
            with a DICOM series below it or of a multi-frame DICOM file; or a nibabel image, or a SimpleITK image.
        series: SeriesInstanceUID of the series to read where the folder holds several.
        allow_non_finite: keep NaN and infinity, for a transform that replaces them.

    Raises:
        VolumeError: it is missing, empty, truncated, of no such format, not 3D, not real-valued, or holds non-finite
            values; or its slices make no regular grid.
    """
    if isinstance(source, str | os.PathLike):
        return _from_path(Path(source), series, allow_non_finite)
    if isinstance(source, nib.spatialimages.SpatialImage):
        return _checked(from_nibabel(source, "image in memory"), allow_non_finite)
    if type(source).__module__.startswith("SimpleITK"):
        return _checked(from_itk(source, "image in memory"), allow_non_finite)
    raise VolumeError(
        f"expected a path, a nibabel image or a SimpleITK image, got {type(source).__module__}.{type(source).__name__}"
    )


def _from_path(path: Path, series: str | None, allow_non_finite: bool) -> Volume:
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise VolumeError(f"{path}: no such file; expected {EXPECTED}") from error
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read: {one_line(error)}") from error
    try:
        if stat.S_ISDIR(found.st_mode):
            volume = _read_dicom(path, series)
        elif not stat.S_ISREG(found.st_mode):  # a pipe would wait for ever
            raise VolumeError(f"{path}: expected {EXPECTED}, got something that is neither file nor folder")
        elif found.st_size == 0:
            raise VolumeError(f"{path}: the file is empty; expected {EXPECTED}")
        elif is_dicom(path):
            volume = _read_dicom(path, series)
        elif has_suffix(path.name, ITK_SUFFIXES):
            volume = read_itk(path)
        else:
            volume = read_nifti(path)
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read: {one_line(error)}") from error
    return _checked(volume, allow_non_finite)


def _read_dicom(path: Path, series: str | None) -> Volume:
    from tomoseg.volumes.dicom import read_dicom  # pydicom takes 0.2 s, and not everybody has DICOM

    return read_dicom(path, series)


def _checked(volume: Volume, allow_non_finite: bool) -> Volume:
    if not allow_non_finite:
        refuse_non_finite(volume)
    return volume

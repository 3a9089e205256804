"""Read a scan from any format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import nibabel as nib

from tomoseg.core.errors import VolumeError, errors_as
from tomoseg.core.notes import collect_notes
from tomoseg.core.quiet import note_warnings
from tomoseg.core.reader_process import read_apart
from tomoseg.data.archive import as_folder
from tomoseg.data.channels import channels_of, expectation, join, split_4d
from tomoseg.data.formats import ITK_SUFFIXES, has_suffix
from tomoseg.data.itk_image import from_itk, read_itk
from tomoseg.data.nifti import from_nibabel, load_nifti
from tomoseg.data.scan_files import is_dicom
from tomoseg.data.volume import Volume, require_finite

if TYPE_CHECKING:
    import SimpleITK as sitk

    Image: TypeAlias = str | os.PathLike[str] | nib.spatialimages.SpatialImage | sitk.Image
    Source: TypeAlias = Image | Sequence[Image]

EXPECTED = "a NIfTI, NRRD or MetaImage file, or a DICOM series"


def read_volume(
    source: Source,
    series: str | None = None,
    *,
    channels: int = 1,
    allow_non_finite: bool = False,
    phase: str | None = None,
) -> Volume:
    """Read a scan and check that it is one finite 3D volume, or one of as many channels as are expected.

    Files are read in a process of its own, which they may crash alone, within the limits of `ReadOptions`.

    Args:
        source: path of a NIfTI file (.nii, .nii.gz, .nii.bz2, .nii.zst, .hdr with .img), FreeSurfer file (.mgz, .mgh),
            NRRD file (.nrrd, .nhdr), MetaImage file (.mha, .mhd), of a folder or a ZIP with a DICOM series below it, of
            a ZIP with one of these files, or of a multi-frame DICOM file; or a nibabel image, or a SimpleITK image. Of
            several channels: a 4D NIfTI file or image, or one of these for each channel.
        series: SeriesInstanceUID of the series to read where the folder holds several.
        channels: how many are expected.
        allow_non_finite: keep NaN and infinity, for a transform that replaces them.
        phase: "KEYWORD=VALUE" of the images to read where a DICOM series has several at each place, e.g.
            "AcquisitionNumber=2".

    Returns:
        The scan, (I, J, K) float32 for each channel, with its grid.

    Raises:
        VolumeError: it is missing, empty, truncated, of no such format, not 3D, not real-valued, or holds non-finite
            values; or its slices make no regular grid; or it has other channels, or channels on several grids.
        MemoryError: it takes more than 80 % of the memory that is free.

    Example:
        >>> import tomoseg
        >>> tomoseg.read_volume("scans/scan.nii.gz").grid.shape
        (40, 56, 40)
    """
    with collect_notes() as notes, note_warnings():
        if isinstance(source, list | tuple):
            parts = [_read_one(part, 1, series, phase) for part in source]
            if len(parts) != channels:
                name = _name(source[0]) if source else "scan"
                raise VolumeError(f"{name}: {expectation(channels)}, got {len(parts)}")
        else:
            parts = [_read_one(source, channels, series, phase)]
        for part in () if allow_non_finite else parts:
            require_finite(part)
        volume = join(parts, parts[0].source) if len(parts) > 1 else parts[0]
    return replace(volume, notes=tuple(dict.fromkeys((*volume.notes, *notes))))


def _read_one(source: Image, channels: int, series: str | None, phase: str | None) -> Volume:
    """Read one file, image or DICOM series."""
    if isinstance(source, str | os.PathLike):
        with as_folder(Path(source)) as (place, name):
            volume = read_apart(_read_path, place, channels, series, phase)
        notes, warnings = tuple(map(name, volume.notes)), tuple(map(name, volume.warnings))
        return replace(volume, source=name(volume.source), notes=notes, warnings=warnings)
    if isinstance(source, nib.spatialimages.SpatialImage):
        return split_4d(source, channels, _name(source)) if channels > 1 else from_nibabel(source, _name(source))
    if type(source).__module__.startswith("SimpleITK"):
        return _require_channels(from_itk(source, _name(source)), channels)
    raise VolumeError(
        f"expected a path, a nibabel image or a SimpleITK image, got {type(source).__module__}.{type(source).__name__}"
    )


def _require_channels(volume: Volume, channels: int) -> Volume:
    if len(volume.channels) != channels:
        raise VolumeError(f"{volume.source}: {expectation(channels)}, got one")
    return volume


def _name(source: Image) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else "image in memory"


def _read_path(path: Path, channels: int, series: str | None, phase: str | None) -> Volume:
    with errors_as(VolumeError, f"{path}: cannot be read", OSError):
        if not path.exists():
            raise VolumeError(f"{path}: no such file; expected {EXPECTED}")
        if not path.is_dir():
            if not path.is_file():  # a pipe would wait for ever
                raise VolumeError(f"{path}: expected {EXPECTED}, got something that is neither file nor folder")
            if path.stat().st_size == 0:
                raise VolumeError(f"{path}: the file is empty; expected {EXPECTED}")
            if not is_dicom(path):
                if phase is not None:
                    raise VolumeError(f"{path}: no DICOM, so it has no phases. Leave out --phase")
                if channels > 1 and channels_of(path) is not None:
                    return split_4d(load_nifti(path), channels, str(path))
                itk = has_suffix(path.name, ITK_SUFFIXES)
                found = read_itk(path, channels) if itk else from_nibabel(load_nifti(path), str(path))
                return _require_channels(found, channels)
        from tomoseg.data.dicom.series import read_dicom  # pydicom takes 0.2 s, and many have no DICOM

        return _require_channels(read_dicom(path, series, phase), channels)

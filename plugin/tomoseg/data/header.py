"""What a scan's header says, without the voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from tomoseg.core.errors import VolumeError, errors_as, one_line
from tomoseg.core.notes import collect_notes
from tomoseg.core.quiet import note_warnings
from tomoseg.core.reader_process import read_apart
from tomoseg.data.archive import as_folder
from tomoseg.data.channels import channels_of, expectation
from tomoseg.data.formats import ITK_SUFFIXES, has_suffix
from tomoseg.data.geometry import Grid
from tomoseg.data.itk_image import READERS, affine_of, open_itk, read_itk
from tomoseg.data.nifti import load_nifti, place_voxels
from tomoseg.data.read import read_volume
from tomoseg.data.scan_files import is_dicom
from tomoseg.data.volume import LPS_TO_RAS, SeriesSummary, by, make_volume

if TYPE_CHECKING:
    from pydicom import Dataset

    from tomoseg.data.dicom.slices import Slice


@dataclass(frozen=True, eq=False)
class Header:
    """A scan whose voxels were not read.

    Attributes:
        path: the file, or the folder of the series.
        format: "NIfTI", "FreeSurfer", "NRRD", "MetaImage" or "DICOM".
        dtype: type of the stored values, e.g. "int16".
        grid: where the voxels lie; None for a series that makes no volume.
        notes: as of the volume.
        series: the DICOM series.
        reason: one line that says why the series makes no volume.
        slices: of the DICOM series, in order.
        channels: how many there are in the file.
    """

    path: Path
    format: str
    dtype: str
    grid: Grid | None
    notes: tuple[str, ...] = ()
    series: SeriesSummary | None = None
    reason: str = ""
    slices: tuple[Slice, ...] = ()
    channels: int = 1

    def read_voxels(self) -> tuple[NDArray[np.float32], ...]:
        """Return the values (I, J, K) of each channel, those that are not finite included.

        Raises:
            VolumeError: they are truncated or damaged.
        """
        if not self.slices:
            return read_volume(self.path, channels=self.channels, allow_non_finite=True).channels
        # not by its UID: that would read every header below the folder again
        return (read_apart(_read_slices, self.path, self.slices),)


def read_headers(path: Path, series: str | None = None, channels: int = 1) -> list[Header]:
    """Read the header of a file, or those of all DICOM series below a folder or of this one.

    What the voxels are not needed for is checked and noted as in `read_volume`.

    Args:
        path: the file, or the folder.
        series: SeriesInstanceUID of the only series that counts.
        channels: how many a 4D file is expected to have; a file of one channel may be one of them.

    Raises:
        VolumeError: as for `read_volume`, but for a single series: that one is returned with its reason.
    """
    with as_folder(path) as (place, name):
        headers = read_apart(_read_headers, place, series, channels)
    return [replace(one, path=path, notes=(*map(name, one.notes),), reason=name(one.reason)) for one in headers]


def _read_slices(path: Path, slices: Sequence[Slice]) -> NDArray[np.float32]:
    from tomoseg.data.dicom.pixels import read_pixels  # pydicom takes 0.2 s, and many have no DICOM

    return read_pixels(slices)


def _read_headers(path: Path, series: str | None, channels: int) -> list[Header]:
    with errors_as(VolumeError, f"{path}: cannot be read", OSError), collect_notes() as notes, note_warnings():
        if path.is_dir() or (path.is_file() and is_dicom(path)):
            from tomoseg.data.dicom.series import series_headers  # pydicom takes 0.2 s, and many have no DICOM

            found = [_read_series(headers, path) for headers in series_headers(path, series)]
        else:
            if not path.is_file() or path.stat().st_size == 0:
                read_volume(path)  # knows what to say
            found = [_read_itk(path) if has_suffix(path.name, ITK_SUFFIXES) else _read_nifti(path, channels)]
    return [replace(one, notes=tuple(dict.fromkeys((*one.notes, *notes)))) for one in found]


def _read_nifti(path: Path, channels: int) -> Header:
    image = load_nifti(path)
    got = channels_of(path) if channels > 1 else None
    if got not in (None, channels):
        raise VolumeError(f"{path}: {expectation(channels)}, got {by(image.shape)}")
    channels = got or 1
    shape, affine, notes = place_voxels(image, str(path), image.shape[:3] if channels > 1 else image.shape)
    grid = make_volume(np.broadcast_to(np.float32(0), shape), affine, str(path)).grid  # voxels that take no memory
    form = "NIfTI" if isinstance(image.header, nib.Nifti1Header) else "FreeSurfer"
    return Header(path, form, image.get_data_dtype().name, grid, notes, channels=channels)


def _read_itk(path: Path) -> Header:
    import SimpleITK as sitk

    form = "NRRD" if READERS[path.suffix.lower()] == "NrrdImageIO" else "MetaImage"
    with open_itk(path) as (reader, header):
        size, dtype = reader.GetSize(), sitk.GetArrayFromImage(sitk.Image((1, 1, 1), reader.GetPixelID())).dtype
        if len(size) == 3 and min(size) > 1 and reader.GetNumberOfComponents() == 1 and dtype.kind in "iuf":
            volume = make_volume(np.broadcast_to(np.float32(0), size), LPS_TO_RAS @ affine_of(reader), str(path))
            return Header(path, form, dtype.name, volume.grid, header.notes)
    volume = read_itk(path)  # of another dimension: the reader knows what to say
    return Header(path, form, str(volume.array.dtype), volume.grid, volume.notes)


def _read_series(headers: Sequence[Dataset], path: Path) -> Header:
    from tomoseg.data.dicom.series import arrange_series, summarise_series

    series = summarise_series(headers)
    try:
        found = arrange_series(headers, path)
    except VolumeError as error:
        return Header(path, "DICOM", "", None, series=series, reason=one_line(error))
    first = next(one for one in headers if one.filename == str(found.slices[0].frame.path))
    bits = first.get("BitsAllocated")
    known = isinstance(bits, int) and "PixelRepresentation" in first  # else the reader of the pixels decides
    dtype = f"{'' if first.PixelRepresentation else 'u'}int{bits}" if known else ""
    notes = (*found.warnings, *found.notes)
    return Header(path, "DICOM", dtype, found.grid, notes, series, slices=found.slices)

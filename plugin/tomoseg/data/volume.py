"""One scan in memory, checked, from any source."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from tomoseg.core.errors import GeometryError, VolumeError, errors_as
from tomoseg.data.geometry import Grid

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MAX_COORDINATE_MM = 1e6  # a kilometre; a header that names a place beyond is damaged


@dataclass(frozen=True)
class DicomFrame:
    """One slice of a series: a file, and the number of the frame in it, from 1 on."""

    path: Path
    number: int = 1


@dataclass(frozen=True)
class DicomSeries:
    """The DICOM series that a scan was read from.

    Attributes:
        uid: its SeriesInstanceUID.
        modality: "CT" or "MR".
        frames: in the order of the volume's third axis. The first axis runs along a row of the image (over its
            columns), the second down a column (over its rows).
        indices: of the frames along the third axis, the first and the last among them; where there is none, voxels are
            interpolated. Empty for one frame at each index.
        description: descriptions of study and series, and the date of the study; empty where the files have none.
    """

    uid: str
    modality: str
    frames: tuple[DicomFrame, ...]
    indices: tuple[int, ...] = ()
    description: str = ""


@dataclass(frozen=True)
class SeriesSummary:
    """One CT or MR series below a folder.

    Attributes:
        uid: its SeriesInstanceUID.
        modality: "CT" or "MR".
        description: SeriesDescription.
        images: number of slices.
        number: SeriesNumber; empty where there is none.
    """

    uid: str
    modality: str
    description: str
    images: int
    number: str = ""

    @property
    def details(self) -> str:
        """What people know the series by."""
        return f"{self.modality}, {self.images} images, {self.description or 'no description'}"

    def __str__(self) -> str:
        return f"{self.uid} ({self.details})"


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan with one value a voxel, or one for each of several channels, such as the sequences of an MRI.

    Attributes:
        array: (I, J, K) float32, finite unless it was read with `allow_non_finite`; of several channels the first.
        grid: where the voxels lie; its shape is the array's.
        source: what errors and reports call it: the path, or "image in memory".
        header: the NIfTI header it came with, if any; a label map written for this scan keeps its qform, sform and
            units.
        series: the DICOM series it came from, if any.
        notes: what in the file was corrected or contradicts itself.
        warnings: what in it may make a result wrong.
        other_channels: the channels after the first, each as `array`.

    Example:
        >>> import tomoseg
        >>> volume = tomoseg.read_volume("scans/scan.nii.gz")
        >>> volume.array.dtype, volume.array.shape == volume.grid.shape
        (dtype('float32'), True)
    """

    array: NDArray[np.float32]
    grid: Grid
    source: str
    header: nib.Nifti1Header | None = None
    series: DicomSeries | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    other_channels: tuple[NDArray[np.float32], ...] = ()

    @property
    def channels(self) -> tuple[NDArray[np.float32], ...]:
        """All channels, one at least, each (I, J, K)."""
        return (self.array, *self.other_channels)


def make_volume(array: NDArray[Any], affine: NDArray[Any], name: str, notes: tuple[str, ...] = ()) -> Volume:
    """Return the volume of an array (I, J, K) with the 4×4 matrix from its indices to RAS+ mm.

    Raises:
        VolumeError: the matrix places no volume.
    """
    with errors_as(VolumeError, name, GeometryError, remedy="; its header is damaged"):
        grid = Grid(array.shape, affine)
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32's range is infinite, and counted afterwards
        values = np.asarray(array, dtype=np.float32)
    return Volume(values, grid, name, notes=notes)


def require_finite(volume: Volume) -> None:
    """Raise VolumeError if a value is NaN or infinite."""
    for channel in volume.channels:
        broken = channel.size - int(np.count_nonzero(np.isfinite(channel)))
        if broken:
            raise VolumeError(
                f"{volume.source}: expected finite values, got NaN or infinity in {broken} of {channel.size} voxels; "
                "replace them first, e.g. with --clean non-finite"
            )


def by(sizes: tuple[int, ...]) -> str:
    """Return sizes as people write them, e.g. "512×512×78"."""
    return "×".join(str(size) for size in sizes)

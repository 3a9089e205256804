"""A label map in memory, checked: whole numbers, each of them a label."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoseg.core.errors import UsageError, VolumeError, errors_as
from tomoseg.data.dicom.seg_reader import is_segmentation, read_segmentation
from tomoseg.data.formats import has_suffix
from tomoseg.data.geometry import MAX_ROUNDING_VOXELS, Grid
from tomoseg.data.itk_image import segment_names
from tomoseg.data.label_mapping import LabelMapping
from tomoseg.data.read import read_volume
from tomoseg.data.volume import by

MAX_LABEL = np.iinfo(np.uint16).max
INTEGER_TOLERANCE = 1e-3  # a file that scales its values (nibabel's do, for labels given as floats) has 1.00001 for 1
SEGMENT_SUFFIXES = (".nrrd",)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A label map.

    Attributes:
        labels: (I, J, K) values.
        grid: where its voxels lie.
        notes: on the file.
    """

    labels: NDArray[np.unsignedinteger[Any]]
    grid: Grid
    notes: tuple[str, ...] = ()


def read_reference(path: Path, values: LabelMapping | None = None, names: Mapping[int, str] | None = None) -> LabelMap:
    """Read a label map (NIfTI, NRRD, .seg.nrrd, MetaImage).

    Args:
        path: the file.
        values: what some of its values become.
        names: of the labels by value; without `values`, segments of a .seg.nrrd of such a name get that value.

    Raises:
        VolumeError: it is no 3D volume, or holds values that are no labels.
    """
    if is_segmentation(path):
        raise VolumeError(f"{path}: a reference has to be a volume with a grid of its own. Convert it to NIfTI")
    volume = read_volume(path)
    lowest, highest = float(volume.array.min()), float(volume.array.max())
    if lowest < 0 or highest > MAX_LABEL:
        raise VolumeError(f"{path}: expected labels from 0 to {MAX_LABEL}, got values from {lowest:g} to {highest:g}")
    kind = np.uint8 if highest < np.iinfo(np.uint8).max + 0.5 else np.uint16
    labels: NDArray[np.unsignedinteger[Any]] = np.rint(volume.array).astype(kind)
    if not np.array_equal(labels, volume.array) and np.abs(labels - volume.array).max() > INTEGER_TOLERANCE:
        raise VolumeError(f"{path}: expected a label map, got values that are no integers")
    if not values and names and has_suffix(path.name, SEGMENT_SUFFIXES):
        with errors_as(VolumeError, str(path), UsageError):
            values = LabelMapping.by_name(segment_names(path), names)
    if values:
        labels = values.apply(labels)
    return LabelMap(labels, volume.grid, volume.notes)


def read_prediction(path: Path, grid: Grid, names: Mapping[int, str]) -> LabelMap:
    """Read a label map that lies on the grid of its reference; DICOM-SEG may lie on a part of it, and turned.

    Args:
        path: the file.
        grid: of the reference.
        names: of the labels by value, for the segments of DICOM-SEG.

    Raises:
        VolumeError: as for `read_reference`; or it lies on another grid.
    """
    if is_segmentation(path):
        return LabelMap(read_segmentation(path, grid, names), grid)
    found = read_reference(path, names=names)
    if found.grid.shape != grid.shape:
        raise VolumeError(
            f"{path}: expected the {by(grid.shape)} voxels of its reference, got {by(found.grid.shape)}. "
            "Resample it to the reference's grid first"
        )
    apart = found.grid.distance_mm(grid)
    if apart > MAX_ROUNDING_VOXELS * min(grid.spacing):
        orientations = {found.grid.orientation, grid.orientation}
        turned = f" ({found.grid.orientation} and {grid.orientation})" if len(orientations) > 1 else ""
        raise VolumeError(
            f"{path}: expected the grid of its reference, got one{turned} whose voxels lie up to {apart:.3g} mm off. "
            "Resample it to the reference's grid first"
        )
    return found

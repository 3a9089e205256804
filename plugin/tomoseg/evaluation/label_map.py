"""A label map in memory, checked: whole numbers, each of them a label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoseg.core.errors import UsageError, VolumeError, errors_as
from tomoseg.data.channels import channels_of
from tomoseg.data.dicom.seg_reader import is_segmentation, read_segmentation
from tomoseg.data.formats import has_suffix
from tomoseg.data.geometry import MAX_ROUNDING_VOXELS, Grid
from tomoseg.data.itk_image import count_layers, segment_names
from tomoseg.data.label_mapping import LabelMapping
from tomoseg.data.masks import INTEGER_TOLERANCE, ROUNDED, distance_to_whole
from tomoseg.data.read import read_volume
from tomoseg.data.volume import by

MAX_LABEL = np.iinfo(np.uint16).max
SEGMENT_SUFFIXES = (".nrrd",)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A label map.

    Attributes:
        labels: (I, J, K) values; or (label, I, J, K) of 0 and 1 where labels may overlap, numbered from 1.
        grid: where its voxels lie.
        notes: on the file.
    """

    labels: NDArray[np.unsignedinteger[Any]]
    grid: Grid
    notes: tuple[str, ...] = ()


def layers_of(path: Path) -> int:
    """Return how many layers a file has for labels that may overlap; 1 for one label map."""
    return count_layers(path) if has_suffix(path.name, SEGMENT_SUFFIXES) else channels_of(path) or 1


def read_reference(path: Path, values: LabelMapping | None = None, names: Mapping[int, str] | None = None) -> LabelMap:
    """Read a label map (NIfTI, NRRD, .seg.nrrd, MetaImage), or labels that overlap as `tomoseg segment` writes them.

    Args:
        path: the file.
        values: what some of its values become.
        names: of the labels by value; without `values`, segments of a .seg.nrrd of such a name get that value.

    Raises:
        VolumeError: it is no 3D volume, or holds values that are no labels.
    """
    if is_segmentation(path):
        raise VolumeError(f"{path}: a reference has to be a volume with a grid of its own. Convert it to NIfTI")
    volume = read_volume(path, channels=layers_of(path))
    layers = [_to_labels(path, channel) for channel in volume.channels]
    rounded = any(map(distance_to_whole, volume.channels))
    labels = layers[0] if len(layers) == 1 else _join_layers(path, layers)
    if not values and names and has_suffix(path.name, SEGMENT_SUFFIXES):
        with errors_as(VolumeError, str(path), UsageError):
            values = LabelMapping.by_name(segment_names(path), names)
    if values:
        labels = values.apply(labels)
    return LabelMap(labels, volume.grid, (*volume.notes, *[ROUNDED] * rounded))


def _to_labels(path: Path, array: NDArray[np.float32]) -> NDArray[np.unsignedinteger[Any]]:
    """Return values as the integers that they are, or nearly are."""
    lowest, highest = round(float(array.min())), round(float(array.max()))
    if lowest < 0 or highest > MAX_LABEL:
        raise VolumeError(f"{path}: expected labels from 0 to {MAX_LABEL}, got values from {lowest} to {highest}")
    if distance_to_whole(array) > INTEGER_TOLERANCE:
        raise VolumeError(f"{path}: expected a label map, got values that are no integers")
    return np.rint(array).astype(np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16)


def _join_layers(path: Path, layers: Sequence[NDArray[np.unsignedinteger[Any]]]) -> NDArray[np.uint8]:
    """Return overlapping labels as (label, I, J, K) of 0 and 1; a layer of 3D Slicer's has its label's value for 1."""
    for label, layer in enumerate(layers, start=1):
        if not np.isin(layer, (0, 1, label)).all():
            raise VolumeError(
                f"{path}: expected one label map, or a layer of 0 and 1 for each label, got values up to {layer.max()} "
                f"in layer {label}. Write one label map"
            )
    return np.stack([layer != 0 for layer in layers]).view(np.uint8)


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

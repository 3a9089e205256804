"""DICOM Segmentation objects, read through highdicom into the grid of a scan."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoseg.core.errors import UsageError, VolumeError, errors_as, import_package
from tomoseg.core.quiet import suppress_warnings
from tomoseg.core.reader_process import read_apart
from tomoseg.data.formats import has_suffix
from tomoseg.data.geometry import Grid
from tomoseg.data.label_mapping import LabelMapping

# Segmentation and Label Map Segmentation: https://dicom.nema.org/medical/dicom/current/output/chtml/part04/sect_B.5.html
STORAGE_CLASSES = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}
POSITION_TOLERANCE_VOXELS = 0.02  # positions are decimals of 16 characters


def is_segmentation(path: Path) -> bool:
    """Return whether a file has the suffix of DICOM and holds a segmentation."""
    if not has_suffix(path.name, (".dcm",)) or not path.is_file():
        return False
    from tomoseg.data.dicom.file_reader import read_dataset  # pydicom takes 0.2 s, and not everybody has DICOM

    try:
        found = read_dataset(path, ["SOPClassUID"])
        return str(found.get("SOPClassUID", "")) in STORAGE_CLASSES
    except Exception:  # pydicom, on damaged bytes: the file is no segmentation
        return False


def read_segmentation(path: Path, grid: Grid, names: Mapping[int, str]) -> NDArray[np.uint16]:
    """Read the labels of a DICOM Segmentation where the voxels of a scan lie.

    Slices that the file leaves out are background. Its axes may be turned against those of the grid.

    Args:
        path: the file.
        grid: of the scan; the file's own pixels must lie on it.
        names: of labels by value; a segment of such a name gets that value, any other one keeps its number, or gets one
            that no label has. If none is called so, each keeps its number.

    Returns:
        (I, J, K) label values; (label, I, J, K) of 0 and 1 where segments overlap, numbered from 1.

    Raises:
        VolumeError: it is damaged, or its pixels do not lie on the grid.
        MissingPackageError: highdicom is not installed.
    """
    return read_apart(_read_segmentation, path, grid, dict(names))


def _read_segmentation(path: Path, grid: Grid, names: Mapping[int, str]) -> NDArray[np.uint16]:
    from tomoseg.data.dicom.file_reader import read_dataset

    highdicom: Any = import_package("highdicom", "highdicom")
    # highdicom raises errors of any kind for damage and gaps
    with errors_as(VolumeError, f"{path}: cannot be read as labels", Exception), suppress_warnings():
        load = partial(highdicom.seg.Segmentation.from_dataset, copy=False)
        dataset = load(read_dataset(path, pixels=True))
        try:
            found = dataset.get_volume(combine_segments=True, dtype=np.uint16)
        except RuntimeError:  # they overlap, and its own tables stay locked
            dataset = load(read_dataset(path, pixels=True))
            found = dataset.get_volume(dtype=np.uint16)
        segments = {number: dataset.get_segment_description(number) for number in dataset.segment_numbers}
        place = highdicom.VolumeGeometry(
            grid.affine, grid.shape, coordinate_system="PATIENT", from_reference_convention="RAS"
        )
    # RuntimeError for grids that differ, ValueError for frames of reference that do
    with errors_as(VolumeError, f"{path}: expected pixels on the grid of the reference", RuntimeError, ValueError):
        placed = found.match_geometry(place, tol=POSITION_TOLERANCE_VOXELS * min(grid.spacing))
    labels: NDArray[np.uint16] = np.asarray(placed.array)
    if np.count_nonzero(labels) < np.count_nonzero(found.array):
        raise VolumeError(f"{path}: some of its pixels lie outside of the reference's grid")
    with errors_as(VolumeError, str(path), UsageError):
        mapping = LabelMapping.by_name({number: one.segment_label for number, one in segments.items()}, names)
    return np.asfortranarray(mapping.apply(np.moveaxis(labels, -1, 0) if labels.ndim == 4 else labels))

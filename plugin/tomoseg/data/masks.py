"""Label maps beside the scans that they belong to: they are no scans of their own."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoseg.core.errors import TomosegError
from tomoseg.core.notes import collect_notes, take_note
from tomoseg.core.quiet import suppress_warnings
from tomoseg.data.formats import is_nifti, strip_suffix
from tomoseg.data.geometry import MAX_ROUNDING_VOXELS, Grid
from tomoseg.data.nifti import load_nifti, read_voxels
from tomoseg.data.read import read_volume

ENDING = re.compile(
    r"[-_. ](?:seg|segmentation|labels?|labelmap|masks?|gt|ground[-_ ]?truth|roi|annotation)$", re.IGNORECASE
)
MANIFEST = ".{}.done.json"  # of a result that tomoseg wrote
MAX_VALUES = 256  # of a label map
INTEGER_TOLERANCE = 1e-3  # a file that scales its values (nibabel's do, for labels given as floats) has 1.00001 for 1
ROUNDED = "its values are nearly whole numbers, and are rounded"
MAX_COUNTED_VALUE = 1 << 16  # below this value counting is faster than sorting


def without_masks(paths: Sequence[Path], asked: Collection[Path] | None = None) -> list[Path]:
    """Return volumes without those that are label maps of others; notes name these.

    Such a file is called as another of these with `_seg`, `_mask` or the like at the end, or has a manifest of tomoseg.
    It lies on the other's grid, and holds at most 256 whole values of 0 or more: a CT has more, and a phase, too.

    Args:
        paths: NIfTI, NRRD and MetaImage files.
        asked: those of them that are to be looked at, and returned; None for all.
    """
    named = {(path.parent, strip_suffix(path.name)): path for path in paths}
    left = []
    for path in paths if asked is None else asked:
        stem = strip_suffix(path.name)
        scan = named.get((path.parent, ENDING.sub("", stem)))
        scan = None if scan == path else scan
        result = path.with_name(MANIFEST.format(path.name)).is_file()
        if (scan or result) and _is_label_map(path, scan):
            of = f"the label map of {scan.name}" if scan else "a result of tomoseg"
            take_note(f"{path}: skipped, because it is {of}. --all-files includes it")
        else:
            left.append(path)
    return left


def _is_label_map(path: Path, scan: Path | None) -> bool:
    """Return whether a file lies on a scan's grid, if there is one, and holds few whole values."""
    try:
        with collect_notes(), suppress_warnings():  # the reader of a scan repeats them
            array, grid = _read(path)
            if scan is not None:
                other = _read_grid(scan)
                if not grid.matches(other, MAX_ROUNDING_VOXELS * min(grid.spacing)):
                    return False
    except (TomosegError, OSError, ValueError, MemoryError):  # its segmentation reports the error
        return False
    return _has_few_whole_values(array)


def _read(path: Path) -> tuple[NDArray[Any], Grid]:
    """Return the voxels, and the grid of the first three axes: labels that overlap have a fourth."""
    if not is_nifti(path):
        volume = read_volume(path)
        return volume.array, volume.grid
    image = load_nifti(path)
    return read_voxels(image, str(path)), Grid(image.shape[:3], image.affine)


def _read_grid(path: Path) -> Grid:
    if is_nifti(path):
        image = load_nifti(path)
        return Grid(image.shape[:3], image.affine)
    return read_volume(path).grid


def _has_few_whole_values(array: NDArray[Any]) -> bool:
    if array.size == 0 or array.dtype.kind not in "iuf":
        return False
    numbers = np.rint(array)
    if not (numbers.min() >= 0 and np.isfinite(numbers.max()) and distance_to_whole(array) <= INTEGER_TOLERANCE):
        return False
    return len(count_values(numbers)[0]) <= MAX_VALUES


def distance_to_whole(array: NDArray[Any]) -> float:
    """Return the largest distance of a value from a whole number; 0 where there is no value."""
    return float(np.abs(array - np.rint(array)).max(initial=0))


def count_values(numbers: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Return the different values of whole numbers, and how often each occurs."""
    if numbers.min() < 0 or numbers.max() >= MAX_COUNTED_VALUE:
        return np.unique(numbers, return_counts=True)
    counts = np.bincount(numbers.astype(np.intp).ravel(order="K"))
    return np.flatnonzero(counts), counts[counts > 0]

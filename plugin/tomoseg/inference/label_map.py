"""Label maps in a scan's grid, from what a bundle's post-processing returns, and what their values mean."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoseg.bundle.metadata import Bundle
from tomoseg.core.errors import BundleError
from tomoseg.data.geometry import Grid
from tomoseg.data.labels import Label, same_name, select_labels, unnamed
from tomoseg.inference.localisation.declaration import read_localisation


def require_labels(bundle: Bundle, patterns: Sequence[str]) -> None:
    """Raise UsageError for a label that neither a crop nor a whole scan can have, as far as the metadata says it."""
    declared = read_localisation(bundle)
    table = [*bundle.label_table.values(), *(declared.label_table if declared else ())]
    if table:
        select_labels(patterns, [label for label in table if same_name(label.name) != "background"])


def to_label_map(
    bundle: Bundle, array: NDArray[Any], affine: NDArray[np.float64], grid: Grid
) -> NDArray[np.unsignedinteger[Any]]:
    """Return labels as (I, J, K), or (label, I, J, K) where they may overlap.

    Args:
        bundle: what made them.
        array: (C, I, J, K) or (I, J, K), as the post-processing leaves it.
        affine: 4×4, its voxel indices to RAS+ mm.
        grid: where the labels must lie.

    Raises:
        BundleError: they lie elsewhere, or are no labels.
    """
    where = f"bundle {bundle.name}: post-processing"
    if array.ndim == 4 and array.shape[0] != 1 and not all(np.isin(channel, (0, 1)).all() for channel in array):
        raise BundleError(
            f"{where}: expected one label map, got {array.shape[0]} channels; end it with an arg-max or a "
            "threshold (AsDiscreted)"
        )
    if array.ndim == 3 or array.shape[0] == 1:
        array = array.reshape(array.shape[-3:])
    if not Grid(array.shape[-3:], affine).matches(grid):
        raise BundleError(
            f"{where}: expected labels in the scan's grid {grid.shape}, got {array.shape[-3:]} elsewhere; "
            "the config lacks an Invertd that undoes its preprocessing"
        )
    largest = max(bundle.labels, default=int(array.max(initial=0)))
    dtype: type[np.unsignedinteger[Any]] = np.uint8 if largest <= 255 or array.ndim == 4 else np.uint16
    labels = array.astype(dtype, copy=False)
    if not np.array_equal(labels, array):
        raise BundleError(f"{where}: expected whole label numbers, got others, e.g. {array.max():g}")
    return labels


def find_label_table(bundle: Bundle, labels: NDArray[Any]) -> tuple[Label, ...]:
    """Return what the values of labels mean, background left out; labels that may overlap are numbered from 1 on."""
    table = bundle.label_table
    if labels.ndim == 4:
        named = (table.get(index) or unnamed(index + 1) for index in range(len(labels)))
        return tuple(replace(label, value=value) for value, label in enumerate(named, 1))
    if len(table) == 1 and 0 in table:  # a network of one channel, and so a threshold
        return (replace(table[0], value=1),)
    table.pop(0, None)
    # the metadata may say less than the network
    if not set(range(1, int(labels.max(initial=0)) + 1)) <= table.keys():
        table |= {value: unnamed(value) for value in np.unique(labels).tolist() if value and value not in table}
    return tuple(label for _, label in sorted(table.items()))

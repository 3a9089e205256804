"""Pictures of results: three planes through one point, of one label map or of several."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray

from tomoseg.core.files import atomic_file
from tomoseg.data.geometry import Grid
from tomoseg.data.labels import Label

# (title, axis that is cut, axes shown from left to right and from bottom to top, letters at left and right)
PLANES = (
    ("axial", 2, (0, 1), ("L", "R")),
    ("coronal", 1, (0, 2), ("L", "R")),
    ("sagittal", 0, (1, 2), ("P", "A")),
)


def save_preview(
    path: Path,
    image: NDArray[np.float32],
    rows: Mapping[str, NDArray[Any]],
    grid: Grid,
    label_table: Sequence[Label],
    centre: Sequence[int] | None = None,
    title: str = "",
) -> None:
    """Draw an axial, a coronal and a sagittal slice with the labels over them, and write a PNG, atomically.

    The slices are drawn as the patient is seen from the head, the back and the right: the patient's left is at the
    left, as the letters say.

    Args:
        path: ends in .png.
        image: (I, J, K) intensities.
        rows: label maps (I, J, K) by their titles; the same slices are drawn for each, one row below the other.
        grid: the grid of all.
        label_table: names and colours.
        centre: the voxel (i, j, k) that the slices run through; None for one of the first map's largest label.
        title: stands above the planes.

    Raises:
        OutputError: the picture cannot be written.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    image = _to_ras(image, grid)
    spacing = [grid.spacing[axis] for axis in np.argsort(io_orientation(grid.affine)[:, 0])]
    maps = {name: _to_ras(labels, grid) for name, labels in rows.items()}
    through = _centre_of_largest(next(iter(maps.values()))) if centre is None else _ras_index(centre, grid)
    low, high = np.percentile(image, (0.5, 99.5))
    colours = {label.value: tuple(part / 255 for part in label.colour) for label in label_table}
    top = max(colours, default=1)
    lookup = ListedColormap([(0, 0, 0, 0), *(colours.get(value, (1, 1, 1)) for value in range(1, top + 1))])

    figure = Figure(figsize=(9, 0.9 + 2.9 * len(maps)), dpi=120, facecolor="black", layout="constrained")
    grid_of_axes = figure.subplots(len(maps), 3, squeeze=False)
    for (name, labels), axes in zip(maps.items(), grid_of_axes, strict=True):
        for axis, (plane, cut, (across, up), letters) in zip(axes, PLANES, strict=True):
            here = [slice(None)] * 3
            here[cut] = through[cut]  # type: ignore[call-overload]
            grey, overlay = image[tuple(here)].T, labels[tuple(here)].T
            aspect = spacing[up] / spacing[across]
            axis.imshow(grey, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", aspect=aspect)
            axis.imshow(
                overlay, cmap=lookup, vmin=0, vmax=lookup.N - 1, alpha=0.35, origin="lower", aspect=aspect,
                interpolation="nearest",
            )  # fmt: skip
            for value, colour in colours.items():
                if (overlay == value).any():
                    axis.contour(overlay == value, levels=[0.5], colors=[colour], linewidths=1.2)
            axis.set_title(f"{name}, {plane}" if name else plane, color="white", fontsize=10, parse_math=False)
            axis.set_axis_off()
            for letter, place in zip(letters, (0.04, 0.96), strict=True):
                axis.text(place, 0.5, letter, color="yellow", transform=axis.transAxes, ha="center", va="center")
    found = [label for label in label_table if any((labels == label.value).any() for labels in maps.values())]
    present = [Patch(color=colours[label.value], label=label.name) for label in found]
    if present:
        legend = figure.legend(
            handles=present, loc="outside lower center", ncols=min(len(present), 5), frameon=False, labelcolor="white"
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # a name with $ in it is no formula
    if title:
        figure.suptitle(title, color="white", fontsize=11, parse_math=False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _to_ras(array: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """Return a view whose axes point, as nearly as they can, to the right, the front and the head."""
    return np.asarray(apply_orientation(array, io_orientation(grid.affine)))


def _ras_index(index: Sequence[int], grid: Grid) -> tuple[int, ...]:
    """Return where a voxel lies in the view that `_to_ras` gives."""
    places = [0, 0, 0]
    for axis, (target, direction) in enumerate(io_orientation(grid.affine).astype(int)):
        places[target] = index[axis] if direction > 0 else grid.shape[axis] - 1 - index[axis]
    return tuple(places)


def _centre_of_largest(labels: NDArray[Any]) -> tuple[int, ...]:
    """Return a voxel of the largest label, near the middle of it; the middle of the volume where there is none."""
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    if not counts.any():
        return tuple(size // 2 for size in labels.shape)
    voxels = np.argwhere(labels == counts.argmax())
    nearest = np.linalg.norm(voxels - voxels.mean(axis=0), axis=1).argmin()
    return tuple(int(index) for index in voxels[nearest])

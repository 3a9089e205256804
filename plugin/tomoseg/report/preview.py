"""Pictures of results: slices in three planes on which each label is visible, of one label map or of several."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from tomoseg.core.files import atomic_file
from tomoseg.data.geometry import Grid
from tomoseg.data.labels import Label

# (title, axis that is cut, axes shown from left to right and from bottom to top, letters where these begin and end)
PLANES: Final = (
    ("axial", 2, (0, 1), ("L", "R")),
    ("coronal", 1, (0, 2), ("L", "R")),
    ("sagittal", 0, (1, 2), ("P", "A")),
)
MAX_ROWS: Final = 8  # of slices
CLEAR: Final = 0.25  # of a label's largest area in a plane, from which it counts as visible there
LETTERS_ACROSS: Final = 95  # of names below the planes
FEW: Final = 10  # labels whose names stand below the planes; those of more stand beside them
# windows of CT in HU, lowest and highest value; radiology's usual levels and widths
SOFT_TISSUE, LUNG, BONE, BRAIN = (-160.0, 240.0), (-1350.0, 150.0), (-500.0, 1300.0), (0.0, 80.0)
AIRY, DENSE = -400.0, 250.0  # median HU of labels in the lung and in bone
IN_THE_BRAIN: Final = ("brain", "cereb", "hippocamp", "ventricle", "thalam", "putamen", "haemorrhage", "hemorrhage")


def save_preview(
    path: Path,
    image: NDArray[np.float32],
    rows: Mapping[str, NDArray[Any]],
    grid: Grid,
    label_table: Sequence[Label],
    centre: Sequence[int] | None = None,
    title: str = "",
    *,
    hounsfield: bool = False,
    neurological: bool = False,
) -> None:
    """Draw axial, coronal and sagittal slices with the labels over them, and write a PNG, atomically.

    The patient's right is at the left and the front of the head at the left, as radiologists have it.

    Args:
        path: ends in .png.
        image: (I, J, K) intensities.
        rows: label maps (I, J, K) by their titles; the same slices are drawn for each, one row below the other.
        grid: the grid of all.
        label_table: names and colours.
        centre: the voxel (i, j, k) that the slices run through; None for as many slices as show each label of the
            first map, and at most 8 of each plane.
        title: stands above the planes.
        hounsfield: the intensities are Hounsfield units, and have the window of what the labels are.
        neurological: the patient's right is at the right, and the front too.

    Raises:
        OutputError: the picture cannot be written.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    image = _to_ras(image, grid)
    spacing = [grid.spacing[axis] for axis in np.argsort(io_orientation(grid.affine)[:, 0])]
    maps = {name: _to_ras(labels, grid) for name, labels in rows.items()}
    first = next(iter(maps.values()))
    low, high = find_window(image, first, label_table) if hounsfield else np.percentile(image, (0.5, 99.5))
    through = choose_slices(first) if centre is None else [_ras_index(centre, grid)]
    colours = {label.value: tuple(part / 255 for part in label.colour) for label in label_table}
    top = max(colours, default=1)
    lookup = ListedColormap([(0, 0, 0, 0), *(colours.get(value, (1, 1, 1)) for value in range(1, top + 1))])
    counts = np.sum([np.bincount(labels.ravel(), minlength=top + 1)[: top + 1] for labels in maps.values()], axis=0)
    present = sorted((one for one in label_table if counts[one.value]), key=lambda one: -counts[one.value])

    drawn = [(slices, name, labels) for slices in through for name, labels in maps.items()]
    beside = 0 if len(present) <= FEW else 5
    size = (9 + beside, max(0.9 + 2.9 * len(drawn), 0.5 + 0.1 * len(present) if beside else 0))
    figure = Figure(figsize=size, dpi=120, facecolor="black", layout="constrained")
    for (slices, name, labels), axes in zip(drawn, figure.subplots(len(drawn), 3, squeeze=False), strict=True):
        for axis, (plane, cut, (across, up), letters) in zip(axes, PLANES, strict=True):
            here = [slice(None)] * 3
            here[cut] = slices[cut]  # type: ignore[call-overload]
            side = slice(None) if neurological else slice(None, None, -1)
            grey, overlay = image[tuple(here)].T[:, side], labels[tuple(here)].T[:, side]
            aspect = spacing[up] / spacing[across]
            axis.imshow(grey, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", aspect=aspect)
            axis.imshow(
                overlay, cmap=lookup, vmin=0, vmax=lookup.N - 1, alpha=0.35, origin="lower", aspect=aspect,
                interpolation="nearest",
            )  # fmt: skip
            for value, where in _boxes(overlay):
                if value in colours:
                    corner = [np.arange(one.start, one.stop) for one in where]
                    outline = {"levels": [0.5], "colors": [colours[value]], "linewidths": 1.2}
                    axis.contour(corner[1], corner[0], overlay[where] == value, **outline)
            axis.set_title(f"{name}, {plane}" if name else plane, color="white", fontsize=10, parse_math=False)
            axis.set_axis_off()
            for letter, place in zip(letters if neurological else letters[::-1], (0.04, 0.96), strict=True):
                axis.text(
                    place, 0.5, letter, color="yellow", transform=axis.transAxes, ha="center", va="center",
                    bbox={"facecolor": "black", "alpha": 0.6, "pad": 1.5, "linewidth": 0},
                )  # fmt: skip
    _add_legend(figure, present, bool(beside))
    if title:
        figure.suptitle(title, color="white", fontsize=11, parse_math=False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def find_window(image: NDArray[np.float32], labels: NDArray[Any], label_table: Sequence[Label]) -> tuple[float, float]:
    """Return the lowest and the highest value in HU that show what the labels are: soft tissue, brain, lung or bone.

    Args:
        image: (I, J, K) in HU.
        labels: (I, J, K).
        label_table: names of the labels.
    """
    inside = image[labels > 0]
    middle = float(np.median(inside)) if inside.size else 0.0
    if middle < AIRY:
        return LUNG
    if middle > DENSE:
        return BONE
    names = [label.name.lower() for label in label_table]
    of_brain = sum(any(part in name for part in IN_THE_BRAIN) for name in names)
    return BRAIN if names and 2 * of_brain > len(names) else SOFT_TISSUE


def choose_slices(labels: NDArray[Any]) -> list[tuple[int, ...]]:
    """Return places, each an index along each axis, so that each label is clearly visible in a plane of one of them.

    Args:
        labels: (I, J, K).
    """
    areas = [np.array([np.bincount(one.ravel()[one.ravel() > 0], minlength=int(labels.max()) + 1)
                       for one in np.moveaxis(labels, axis, 0)]) for axis in range(3)]  # fmt: skip
    clear = [(area > 0) & (area >= CLEAR * area.max(axis=0)) for area in areas]
    unseen = areas[0].any(axis=0)
    found: list[tuple[int, ...]] = []
    while unseen.any() and len(found) < MAX_ROWS:
        place = []
        for area, shown in zip(areas, clear, strict=True):
            # most labels that were not seen before, then most of their voxels
            share = (area * unseen).sum(axis=1) / (1 + (area * unseen).sum(axis=1).max())
            place.append(int(((shown & unseen).sum(axis=1) + share).argmax()))
        found.append(tuple(place))
        for shown, index in zip(clear, place, strict=True):
            unseen = unseen & ~shown[index]
    return found or [tuple(size // 2 for size in labels.shape)]


def _boxes(overlay: NDArray[Any]) -> Iterator[tuple[int, tuple[slice, ...]]]:
    """Yield each value of a slice with the box around it and one voxel more, so that its outline closes."""
    for value, box in enumerate(find_objects(overlay.astype(np.int32)), start=1):
        if box is not None:
            sides = zip(box, overlay.shape, strict=True)
            yield value, tuple(slice(max(side.start - 1, 0), min(side.stop + 1, size)) for side, size in sides)


def _add_legend(figure: Any, labels: Sequence[Label], beside: bool) -> None:
    """Name the labels, the largest first: below the planes, or in two columns beside them."""
    from matplotlib.patches import Patch

    if not labels:
        return
    handles = [Patch(color=[part / 255 for part in label.colour], label=label.name) for label in labels]
    columns = min(len(labels), max(1, LETTERS_ACROSS // (5 + max(len(label.name) for label in labels))))
    place = ("outside right upper", 2, 8) if beside else ("outside lower center", columns, 10)
    legend = figure.legend(
        handles=handles, loc=place[0], ncols=place[1], fontsize=place[2], frameon=False, labelcolor="white"
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name with $ in it is no formula


def _to_ras(array: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """Return a view whose axes point, as nearly as they can, to the right, the front and the head."""
    return np.asarray(apply_orientation(array, io_orientation(grid.affine)))


def _ras_index(index: Sequence[int], grid: Grid) -> tuple[int, ...]:
    """Return where a voxel lies in the view that `_to_ras` gives."""
    places = [0, 0, 0]
    for axis, (target, direction) in enumerate(io_orientation(grid.affine).astype(int)):
        places[target] = index[axis] if direction > 0 else grid.shape[axis] - 1 - index[axis]
    return tuple(places)

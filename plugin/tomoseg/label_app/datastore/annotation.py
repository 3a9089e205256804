"""Bring a label map from a client into its image's grid, with the names of its values."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoseg.core.errors import TomosegError, UsageError, VolumeError, some
from tomoseg.core.files import require_regular
from tomoseg.data.formats import has_suffix
from tomoseg.data.geometry import Grid
from tomoseg.data.itk_image import segment_names
from tomoseg.data.labels import same_name
from tomoseg.data.nifti import write_label_map
from tomoseg.data.read import read_volume
from tomoseg.data.volume import Volume
from tomoseg.label_app.history import History

FINAL = "final"  # MONAI Label's tag of what annotators save
RAW_SUFFIX = ".bin"  # OHIF's: one byte a voxel, first axis fastest
NOT_DRAWN = {"background", "foreground_scribbles", "background_scribbles"}  # segments that clients use as tools
TOLERANCE_VOXELS = 0.01


@dataclass(frozen=True, eq=False)
class Annotation:
    """Labels of one image.

    Attributes:
        labels: (I, J, K) uint16, on the image's grid.
        names: what the values are, in lower case; empty where the client did not say.
    """

    labels: NDArray[np.uint16]
    names: dict[int, str]


@dataclass(frozen=True)
class ExpectedLabels:
    """What annotations may hold.

    Attributes:
        bundles: for each served bundle its labels' names, as `same_name` has them, each with the bundle's own value.
        accept_unknown: take other names and incomplete annotations, too.
    """

    bundles: Sequence[Mapping[str, int]]
    accept_unknown: bool = False

    def require(self, annotation: Annotation, image_id: str) -> None:
        """Refuse an annotation that training would take for background in part.

        Raises:
            UsageError: it is empty, has a label that no bundle has, or lacks one of the bundle that it is for.
        """
        drawn = {same_name(annotation.names.get(value, "")) for value in np.unique(annotation.labels) if value}
        if not drawn:
            raise UsageError(f"image {image_id}: the annotation is empty. Draw a label")
        if self.accept_unknown or not annotation.names:
            return
        known = set().union(*self.bundles)
        if unknown := sorted(drawn - known):
            expected = ", ".join(sorted(known))
            raise UsageError(f"image {image_id}: {some(unknown)} is no label of a bundle. Name it one of {expected}")
        missing = [{*one.values()} - {one[name] for name in drawn & one.keys()} for one in self.bundles]
        values, bundle = min(zip(missing, self.bundles, strict=True), key=lambda pair: len(pair[0]))
        if values:
            names = sorted({name for name, value in bundle.items() if value in values})
            raise UsageError(
                f"image {image_id}: {some(names)} is missing. Draw it, or start the server with --accept-unknown"
            )


def read_annotation(path: Path, image: Volume, label_info: Sequence[Mapping[str, Any]] | None) -> Annotation:
    """Read what a client sent.

    Args:
        path: NIfTI, NRRD (also 3D Slicer's .seg.nrrd, which holds only the box around its segments) or OHIF's .bin.
        image: the annotated image.
        label_info: the client's list of `name` and value (`idx` or `id`); None if it sent none.

    Raises:
        VolumeError: the file cannot be read as labels, or does not lie on the image's grid.
        UsageError: a value occurs that `label_info` does not name.
    """
    names: dict[int, str] = {}
    if has_suffix(path.name, (RAW_SUFFIX,)):
        labels = _read_raw(path, image.grid)
    else:
        volume = read_volume(path)
        labels = _on_grid(volume, image.grid, path)
        if has_suffix(path.name, (".nrrd",)):
            names = segment_names(path)
    found = [int(value) for value in np.unique(labels) if value]
    names = names or _named(label_info or (), found, path)
    missing = [value for value in found if names and value not in names]
    if missing:
        raise UsageError(f"{path.name}: expected a name for each label, got none for {missing}; named are {names}")
    return Annotation(labels, {value: name.lower() for value, name in names.items()})


@dataclass(frozen=True)
class Submissions:
    """How annotations are taken.

    Attributes:
        expected: their labels.
        history: keeps each of them.
    """

    expected: ExpectedLabels
    history: History

    @contextmanager
    def take(
        self, studies: Any, image_id: str, image: Volume, label_filename: str, label_info: dict[str, Any]
    ) -> Iterator[tuple[Path, Annotation, dict[str, Any]]]:
        """Read a client's file, and yield it as NIfTI on its image's grid, while it is stored.

        Args:
            studies: MONAI Label's datastore, whose present label is kept.
            image_id: the image.
            image: its voxels and grid.
            label_filename: the client's file.
            label_info: the client's description.

        Yields:
            A file, its label map, and the client's description with the actual names and values.

        Raises:
            VolumeError, UsageError: as for `read_annotation`.
        """
        annotation = read_annotation(Path(label_filename), image, label_info.get("label_info"))
        self.expected.require(annotation, image_id)
        known = {**label_info, "label_info": [{"name": n, "idx": v} for v, n in sorted(annotation.names.items())]}
        facts = {name: known[name] for name in ("user", "weights", "restored", "label_info") if known.get(name)}
        with suppress(TomosegError):  # an unreadable one of an archive stays there
            if there := studies.get_label_uri(image_id, FINAL):
                info = studies.get_label_info(image_id, FINAL)
                self.history.keep(image_id, Path(there), info.get("label_info"))
        with self.history.adding(image_id, facts) as folder:
            path = folder / "label.nii.gz"
            write_label_map(path, annotation.labels, image.grid, image.header)
            yield path, annotation, known


def _read_raw(path: Path, grid: Grid) -> NDArray[np.uint16]:
    values = np.fromfile(require_regular(path), np.uint8)
    if values.size != np.prod(grid.shape):
        raise VolumeError(f"{path.name}: expected {np.prod(grid.shape)} bytes, one for each voxel, got {values.size}")
    return values.reshape(grid.shape, order="F").astype(np.uint16)


def _on_grid(volume: Volume, grid: Grid, path: Path) -> NDArray[np.uint16]:
    """Return the labels on a grid that holds theirs, voxel upon voxel."""
    values = volume.array
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535 or not np.array_equal(values, np.round(values)):
        raise VolumeError(f"{path.name}: expected whole label numbers, got values such as {values.max(initial=0):g}")
    steps = volume.grid.index_to(grid)
    shift = np.round(steps[:3, 3]).astype(int)
    end = shift + np.array(volume.grid.shape)
    off = max(np.abs(steps[:3, :3] - np.eye(3)).max() * max(volume.grid.shape), np.abs(steps[:3, 3] - shift).max())
    if off > TOLERANCE_VOXELS or (shift < 0).any() or (end > grid.shape).any():
        raise VolumeError(
            f"{path.name}: expected labels on the image's grid {grid.shape} {grid.orientation}, got "
            f"{volume.grid.shape} {volume.grid.orientation} elsewhere. Export them on the image's geometry"
        )
    labels = np.zeros(grid.shape, np.uint16)
    labels[tuple(slice(a, b) for a, b in zip(shift, end, strict=True))] = values.astype(np.uint16)
    return labels


def _named(label_info: Sequence[Mapping[str, Any]], found: Sequence[int], path: Path) -> dict[int, str]:
    """Return names by value.

    3D Slicer counts segments that it does not export, too, so that its numbers may be off; then its order counts.
    """
    try:
        drawn = [entry for entry in label_info if str(entry["name"]).lower() not in NOT_DRAWN]
        reported = {int(entry.get("idx", entry.get("id", n))): str(entry["name"]) for n, entry in enumerate(drawn, 1)}
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path.name}: label_info: expected a list of name and idx, got {label_info!r}") from error
    if set(found) <= reported.keys():
        return reported
    return {n: str(entry["name"]) for n, entry in enumerate(drawn, 1)}

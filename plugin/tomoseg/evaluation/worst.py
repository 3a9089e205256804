"""The worst cases, as pictures: the reference above, the prediction below."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tomoseg.core.errors import TomosegError, UsageError
from tomoseg.data.channels import FIRST_CHANNEL, channels_of
from tomoseg.data.formats import strip_suffix
from tomoseg.data.geometry import Grid
from tomoseg.data.labels import Label, default_colour
from tomoseg.data.read import read_volume
from tomoseg.data.scan_files import is_volume, visible_files
from tomoseg.data.segments import mask_of
from tomoseg.evaluation.case import CaseScores, LabelScores
from tomoseg.evaluation.label_map import read_prediction, read_reference
from tomoseg.evaluation.results import Evaluation
from tomoseg.report.html.pictures import embed
from tomoseg.report.preview import save_preview

MARGIN_MM = 25.0  # of the scan around the labels
MAX_SHIFT_VOXELS = 0.5  # by which a scan may lie beside its labels: it is only looked at


@dataclass(frozen=True)
class WorstCase:
    """A case, and the label that it is shown for.

    Attributes:
        case: the case.
        scores: of its label with the lowest Dice.
        picture: as a `data:` URI; "" where none could be drawn.
    """

    case: CaseScores
    scores: LabelScores
    picture: str = ""


def choose_worst(evaluation: Evaluation, count: int) -> list[tuple[CaseScores, LabelScores]]:
    """Return the cases with the lowest Dice of any label, each with that label; the lowest mean Dice decides ties."""
    ranked = []
    for case in evaluation.done:
        defined = [one for one in case.labels if not math.isnan(one.overlap.dice)]
        if defined:
            lowest = min(defined, key=lambda one: one.overlap.dice)
            mean = sum(one.overlap.dice for one in defined) / len(defined)
            ranked.append(((lowest.overlap.dice, mean, case.name), case, lowest))
    ranked.sort(key=lambda entry: entry[0])
    return [(case, scores) for _, case, scores in ranked[:count]]


def find_images(folder: Path) -> dict[str, Path]:
    """Return the scans below a folder by their names, without nnU-Net's channel.

    Raises:
        UsageError: there is none.
    """
    scans = filter(is_volume, visible_files(folder))
    found = {strip_suffix(path.name).removesuffix(FIRST_CHANNEL): path for path in scans}
    if not found:
        raise UsageError(f"{folder}: expected scans, got no NIfTI, NRRD or MetaImage file")
    return found


def draw_worst(evaluation: Evaluation, count: int, images: dict[str, Path]) -> list[WorstCase]:
    """Draw the worst cases, one after the other; where there is no scan, the labels stand on black.

    Args:
        evaluation: the scores.
        count: how many to draw.
        images: scans by the names of cases; before those that a dataset names.
    """
    chosen = choose_worst(evaluation, count)
    with TemporaryDirectory(prefix="tomoseg-") as folder:
        paths = [Path(folder) / f"{number}.png" for number in range(len(chosen))]
        drawn = [
            str(path) if _draw(path, evaluation, case, scores, images.get(case.name, case.image)) else None
            for path, (case, scores) in zip(paths, chosen, strict=True)
        ]
        pictures = embed(drawn)
    return [WorstCase(case, scores, picture) for (case, scores), picture in zip(chosen, pictures, strict=True)]


def _draw(path: Path, evaluation: Evaluation, case: CaseScores, scores: LabelScores, image: Path | None) -> bool:
    """Draw one case; return whether it could be done."""
    assert case.prediction is not None
    assert case.reference is not None
    try:
        reference = read_reference(case.reference, evaluation.config.reference_values, evaluation.config.names)
        prediction = read_prediction(case.prediction, reference.grid, evaluation.config.names)
        maps = {"reference": reference, "prediction": prediction}
        scan = _read_image(image, reference.grid)
    except TomosegError:  # gone since it was scored
        return False
    rows = {name: _shown(found.labels, scores.label) for name, found in maps.items()}
    box = _frame(list(rows.values()), reference.grid)
    rows = {name: labels[box] for name, labels in rows.items()}
    centre = _where_wrong(rows["prediction"] == scores.label, rows["reference"] == scores.label)
    values = sorted({one.label for one in case.labels})
    table = [Label(value, evaluation.config.name(value), default_colour(value)) for value in values]
    save_preview(path, scan[box], rows, reference.grid.part(box), table, centre)
    return True


def _shown(labels: NDArray[np.unsignedinteger[Any]], label: int) -> NDArray[np.unsignedinteger[Any]]:
    """Return labels as (I, J, K); of labels that may overlap, the one that a case is shown for."""
    whole = (slice(None), slice(None), slice(None))
    return mask_of(labels, label, whole) * np.min_scalar_type(label).type(label) if labels.ndim == 4 else labels


def _read_image(path: Path | None, grid: Grid) -> NDArray[np.float32]:
    """Return the scan of a case; black where it cannot be read or has another grid."""
    if path is not None:
        try:
            volume = read_volume(path, channels=channels_of(path) or 1, allow_non_finite=True)
        except (TomosegError, OSError):
            volume = None
        if volume is not None and volume.grid.matches(grid, MAX_SHIFT_VOXELS * min(grid.spacing)):
            return np.nan_to_num(volume.array, posinf=0.0, neginf=0.0)
    return np.zeros(grid.shape, np.float32)


def _frame(maps: Sequence[NDArray[np.unsignedinteger[Any]]], grid: Grid) -> tuple[slice, ...]:
    """Return the box around all labels, with a margin; the whole volume where there is none."""
    anything = np.logical_or.reduce([labels != 0 for labels in maps])
    (found,) = ndimage.find_objects(anything.view(np.uint8), 1)
    margins = [math.ceil(MARGIN_MM / spacing) for spacing in grid.spacing]
    box = found or tuple(slice(0, size) for size in grid.shape)
    return tuple(
        slice(max(side.start - margin, 0), min(side.stop + margin, size))
        for side, margin, size in zip(box, margins, grid.shape, strict=True)
    )


def _where_wrong(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> tuple[int, ...]:
    """Return along each axis the slice with the most wrong voxels; with the most voxels where none is wrong."""
    shown = prediction ^ reference
    if not shown.any():
        shown = reference
    return tuple(
        int(np.count_nonzero(shown, axis=tuple(other for other in range(3) if other != axis)).argmax())
        for axis in range(3)
    )

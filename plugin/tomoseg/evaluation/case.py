"""The scores of one case, label by label."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tomoseg.core.errors import some
from tomoseg.core.memory import explain_failure
from tomoseg.core.pseudonyms import hide_names, pseudonym
from tomoseg.data.geometry import Box, Grid
from tomoseg.data.overlap import Overlap, count_overlap
from tomoseg.data.segments import find_boxes, mask_of
from tomoseg.evaluation.config import EvaluationConfig
from tomoseg.evaluation.label_map import read_prediction, read_reference
from tomoseg.evaluation.pairing import CasePair
from tomoseg.evaluation.surface import SurfaceScores, score_surfaces

Labels = NDArray[np.unsignedinteger[Any]]
ALL = slice(None)
NO_SURFACE_SCORES = SurfaceScores(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class LabelScores:
    """How one label of one case was predicted.

    Attributes:
        label: its value.
        overlap: in voxels.
        surface: in mm.
        voxel_ml: the volume of a voxel.
    """

    label: int
    overlap: Overlap
    surface: SurfaceScores
    voxel_ml: float

    @property
    def predicted_ml(self) -> float:
        """Volume of the prediction in mL."""
        return self.overlap.predicted * self.voxel_ml

    @property
    def reference_ml(self) -> float:
        """Volume of the reference in mL."""
        return self.overlap.reference * self.voxel_ml

    @property
    def volume_error_ml(self) -> float:
        """The volume predicted too much (above 0) or too little."""
        return (self.overlap.predicted - self.overlap.reference) * self.voxel_ml


@dataclass(frozen=True)
class CaseScores:
    """The outcome for one case.

    Attributes:
        name: name of the case.
        prediction, reference: the files; None for one that is missing.
        status: "done", or "failed" if it could not be scored.
        reason: one line that says why it failed.
        notes: notes on the files.
        labels: by value; without labels that were not annotated in this case.
        absent: what a label scores that neither of the two has; None where the case failed.
        annotated: values of the labels that were drawn; None: all were.
        image: the scan, where it is known.
        seconds: that it took.
    """

    name: str
    prediction: Path | None
    reference: Path | None
    status: Literal["done", "failed"]
    reason: str = ""
    notes: tuple[str, ...] = ()
    labels: tuple[LabelScores, ...] = ()
    absent: Overlap | None = None
    annotated: frozenset[int] | None = None
    image: Path | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """Result of the comparison of two label maps.

    Attributes:
        scores: by value.
        voxels: that were counted, without those that are ignored.
        unnamed: values that occur and are not scored.
    """

    scores: tuple[LabelScores, ...]
    voxels: int
    unnamed: tuple[int, ...] = ()


def hide_case(case: CaseScores, key: bytes | None) -> CaseScores:
    """Return a case without its names and paths, if there is a key: with the number that `segment` gives its scan."""
    if key is None:
        return case
    number = pseudonym(key, case.name)
    files = list(filter(None, (case.prediction, case.reference, case.image)))
    return replace(
        case, name=number, prediction=None if case.prediction is None else Path(number), image=None,
        reference=None if case.reference is None else Path(number),
        reason=hide_names(case.reason, number, files, [case.name]),
        notes=tuple(hide_names(note, number, files, [case.name]) for note in case.notes),
    )  # fmt: skip


def score_case(match: CasePair, config: EvaluationConfig) -> CaseScores:
    """Read both label maps of a case and compare them; an error becomes the case's reason."""
    started = time.perf_counter()
    try:
        reference = read_reference(match.reference, config.reference_values, config.names)
        prediction = read_prediction(match.prediction, reference.grid, config.names)
        found = compare_labels(prediction.labels, reference.labels, reference.grid, config, match.annotated)
    except Exception as error:  # nibabel, SimpleITK and highdicom on damaged files
        reason = explain_failure(error, match.prediction, "to compare it")
    else:
        strange = []
        if found.unnamed:
            strange.append(f"holds the values {some(found.unnamed)}, which no label has; they are not scored")
        return CaseScores(
            name=match.name,
            prediction=match.prediction,
            reference=match.reference,
            status="done",
            notes=tuple(dict.fromkeys((*reference.notes, *prediction.notes, *strange))),
            labels=found.scores,
            absent=Overlap(0, 0, 0, found.voxels),
            annotated=match.annotated,
            image=match.image,
            seconds=time.perf_counter() - started,
        )
    return CaseScores(match.name, match.prediction, match.reference, "failed", reason)


def compare_labels(
    prediction: Labels, reference: Labels, grid: Grid, config: EvaluationConfig, annotated: Iterable[int] | None = None
) -> Comparison:
    """Compare two label maps on one grid, each label in the box that just holds it.

    Voxels that the reference has as `config.ignore` are background in both and counted nowhere.

    Args:
        prediction: (I, J, K) label values; or (label, I, J, K) where labels may overlap, numbered from 1.
        reference: likewise.
        grid: of both.
        config: labels, tolerances and other rules.
        annotated: values of the labels that the reference annotates; None for all.
    """
    known: NDArray[np.bool_] = np.broadcast_to(np.True_, grid.shape)
    if config.ignore is not None:
        known = ~mask_of(reference, config.ignore, (ALL, ALL, ALL))
        prediction, reference = (np.where(known, labels, labels.dtype.type(0)) for labels in (prediction, reference))
    voxels = int(np.count_nonzero(known))
    along_patient = next(axis for axis, letter in enumerate(grid.orientation) if letter in "SI")
    ours, theirs = find_boxes(prediction), find_boxes(reference)
    found = {*ours, *theirs}
    values = set(config.names or found - {config.ignore})
    if annotated is not None:
        values &= set(annotated)
    scores = []
    for value in sorted(values):
        box = _around([boxes[value] for boxes in (ours, theirs) if value in boxes])
        counted = voxels
        if value in config.within_slices and value in theirs:
            box[along_patient] = theirs[value][along_patient]
            counted = int(np.count_nonzero(known.swapaxes(0, along_patient)[box[along_patient]]))
        predicted, true = (mask_of(labels, value, (box[0], box[1], box[2])) for labels in (prediction, reference))
        surface = score_surfaces(predicted, true, grid.affine, config.tolerance(value))
        scores.append(LabelScores(value, count_overlap(predicted, true, counted), surface, grid.voxel_volume_ml))
    unnamed = sorted(found - set(config.names)) if config.names else []
    return Comparison(tuple(scores), voxels, tuple(unnamed))


def scores_of(case: CaseScores, labels: Iterable[int]) -> list[LabelScores | None]:
    """Return the scores of labels, which neither of the two need have; None for one that was not annotated in it."""
    known = {scores.label: scores for scores in case.labels}

    def of(label: int) -> LabelScores | None:
        if label in known or case.absent is None:
            return known.get(label)
        if case.annotated is not None and label not in case.annotated:
            return None
        return LabelScores(label, case.absent, NO_SURFACE_SCORES, 0.0)

    return [of(label) for label in labels]


def _around(boxes: Sequence[Box]) -> list[slice]:
    """Return the box that just holds all; an empty one if there is none."""
    sides = zip(*boxes, strict=True)
    return [slice(min(s.start for s in side), max(s.stop for s in side)) for side in sides] or [slice(0, 0)] * 3

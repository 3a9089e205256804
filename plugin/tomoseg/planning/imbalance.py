"""Loss and sampling of windows for rare or small labels."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from tomoseg.core.errors import UsageError

if TYPE_CHECKING:
    from tomoseg.planning.fingerprint import LabelPrint

LossName = Literal["dice-ce", "dice-focal", "tversky"]
# title of each, and the reason to choose it
LOSSES: dict[str, tuple[str, str]] = {
    "dice-ce": ("Dice and cross-entropy", "their sum with equal weights is nnU-Net's"),
    "dice-focal": (
        "Dice and focal loss",
        "as asked for: the focal loss (gamma 2) counts voxels little that are right already, so that the few that are "
        "hard are not outvoted; its scores are less fit for a map of uncertainty",
    ),
    "tversky": (
        "Tversky loss and cross-entropy",
        "as asked for: the Tversky loss (0.3 and 0.7) counts a voxel that is missed more than one too much, so that "
        "small labels are found rather than left out; cross-entropy learns them where nothing of them is found yet",
    ),
}
UNIFORM, INVERSE_VOLUME = "uniform", "inverse-volume"
MAX_SAMPLING_RATIO = 10.0  # times as often as the middle label, or as rarely: no label takes all windows
EXPECTED = f"sampling: expected {UNIFORM}, {INVERSE_VOLUME} or NAME=RATIO,NAME=RATIO"


def named_ratios(sampling: str) -> dict[str, float]:
    """Return the ratios of an option that gives them by name; none for the other options.

    Raises:
        UsageError: the option is unknown.
    """
    if sampling in (UNIFORM, INVERSE_VOLUME):
        return {}
    ratios = {}
    for part in sampling.split(","):
        name, _, text = (piece.strip() for piece in part.rpartition("="))
        try:
            ratio = float(text)
        except ValueError:
            ratio = -1.0
        if not name or not math.isfinite(ratio) or ratio < 0:
            raise UsageError(f"{EXPECTED} with numbers from 0 on, got {sampling}")
        ratios[name] = ratio
    return ratios


def choose_loss(loss: str, masked: bool) -> tuple[str, str]:
    """Return what the loss is called, and why; each goes with labels that are not known everywhere, too.

    Args:
        loss: one of `LOSSES`.
        masked: whether the label of some voxels is unknown.
    """
    name, reason = LOSSES[loss]
    if not masked:
        return name, f"every voxel is annotated; {reason}"
    return (
        f"marginal {name}",
        "voxels whose label is not known (labels that were not drawn in a case, or the ignore label) may be any of "
        f"those that they can be; {reason}",
    )


def choose_ratios(sampling: str, labels: Sequence[LabelPrint], cut: bool) -> tuple[tuple[float, ...], str]:
    """Return how often windows lie on each label, in the order of the labels, and why.

    Args:
        sampling: as in `PlanningOptions`.
        labels: of the dataset.
        cut: whether windows are cut from larger scans.

    Raises:
        UsageError: it names a label that is none, or leaves no label.
    """
    third = "a third of the windows lies on a label"
    named = named_ratios(sampling)
    ratios = [named.get(label.name, 1.0) for label in labels]
    reason = f"as asked for: {third}, on each as often as its ratio says"
    if sampling == UNIFORM:
        reason = f"{third}, on each as often as on the others (nnU-Net)"
    elif sampling == INVERSE_VOLUME:
        middle = statistics.median(label.median_ml for label in labels)
        ratios = [middle / max(label.median_ml, middle / MAX_SAMPLING_RATIO) if middle else 1.0 for label in labels]
        ratios = [float(f"{max(ratio, 1 / MAX_SAMPLING_RATIO):.3g}") for ratio in ratios]
        reason = (
            f"as asked for: {third}, the smaller its median volume the more often (median-frequency balancing, Eigen "
            f"and Fergus, ICCV 2015), {MAX_SAMPLING_RATIO:g} times the middle label at most"
        )
    unknown = [name for name in named if name not in {label.name for label in labels}]
    if unknown:
        raise UsageError(
            f"sampling: expected names of labels ({', '.join(label.name for label in labels)}), got {unknown[0]}"
        )
    if named and not any(ratios):
        raise UsageError("sampling: expected a ratio above 0 for some label, got 0 for all")
    if not cut:
        reason = "every scan fits into a window, so none is cut and the option has no effect"
    return tuple(ratios), reason

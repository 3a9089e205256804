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
LOSSES: dict[str, str] = {
    "dice-ce": "Dice and cross-entropy",
    "dice-focal": "Dice and focal loss",
    "tversky": "Tversky loss and cross-entropy",
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


def choose_ratios(sampling: str, labels: Sequence[LabelPrint]) -> tuple[float, ...]:
    """Return how often windows lie on each label, in the order of the labels.

    Args:
        sampling: as in `PlanningOptions`.
        labels: of the dataset.

    Raises:
        UsageError: it names a label that is none, or leaves no label.
    """
    named = named_ratios(sampling)
    ratios = [named.get(label.name, 1.0) for label in labels]
    if sampling == INVERSE_VOLUME:
        middle = statistics.median(label.median_ml for label in labels)
        ratios = [middle / max(label.median_ml, middle / MAX_SAMPLING_RATIO) if middle else 1.0 for label in labels]
        ratios = [float(f"{max(ratio, 1 / MAX_SAMPLING_RATIO):.3g}") for ratio in ratios]
    unknown = [name for name in named if name not in {label.name for label in labels}]
    if unknown:
        raise UsageError(
            f"sampling: expected names of labels ({', '.join(label.name for label in labels)}), got {unknown[0]}"
        )
    if named and not any(ratios):
        raise UsageError("sampling: expected a ratio above 0 for some label, got 0 for all")
    return tuple(ratios)

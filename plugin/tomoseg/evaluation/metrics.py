"""Metrics of each label of each case."""

from collections.abc import Callable
from dataclasses import dataclass

from tomoseg.evaluation.case import LabelScores


@dataclass(frozen=True)
class Metric:
    """A number.

    Attributes:
        key: its name in files.
        title: for people.
        unit: "", "mm" or "mL".
        of: computes it: NaN where it is undefined, infinite for a distance to an absent label.
        decimals: number of decimals that tables show.
        explanation: one sentence.
    """

    key: str
    title: str
    unit: str
    of: Callable[[LabelScores], float]
    decimals: int
    explanation: str


METRICS = (
    Metric("dice", "Dice", "", lambda s: s.overlap.dice, 3, "Twice the overlap over the sum of both volumes (F1)."),
    Metric("jaccard", "Jaccard", "", lambda s: s.overlap.jaccard, 3, "The intersection over the union."),
    Metric(
        "precision", "Precision", "", lambda s: s.overlap.precision, 3, "The share of the prediction that is right.",
    ),
    Metric("recall", "Recall", "", lambda s: s.overlap.recall, 3, "The share of the reference that was found."),
    Metric(
        "accuracy", "Accuracy", "", lambda s: s.overlap.accuracy, 4,
        "The share of all voxels that are right; close to 1 for every small structure.",
    ),
    Metric(
        "hd95_mm", "HD95", "mm", lambda s: s.surface.hd95_mm, 2,
        "95 % Hausdorff distance: the larger of the 95th percentiles of the distances in both directions.",
    ),
    Metric("assd_mm", "ASSD", "mm", lambda s: s.surface.assd_mm, 2, "Average symmetric surface distance."),
    Metric(
        "nsd", "NSD", "", lambda s: s.surface.nsd, 3,
        "Normalised surface distance: the share of both surfaces within the tolerance of the other.",
    ),
    Metric(
        "volume_error_ml", "Volume error", "mL", lambda s: s.volume_error_ml, 2,
        "Predicted minus reference volume.",
    ),
    Metric(
        "relative_volume_error", "Relative volume error", "", lambda s: s.overlap.relative_volume_error, 3,
        "The same as a share of the reference volume.",
    ),
)  # fmt: skip
BY_KEY = {metric.key: metric for metric in METRICS}

"""Metrics of each label of each case."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from tomoseg.core.tables import read_rows
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


# `of` names an attribute of `LabelScores`
METRICS = tuple(
    Metric(**row | {"of": attrgetter(row["of"]), "decimals": int(row["decimals"])})  # type: ignore[arg-type]
    for row in read_rows(__package__, "metrics.csv")
)
BY_KEY = {metric.key: metric for metric in METRICS}

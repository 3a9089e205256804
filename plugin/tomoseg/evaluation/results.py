"""An evaluation as a value, and its files for programs: JSON and CSV."""

import math
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tomoseg.core.json_files import write_json
from tomoseg.core.json_records import to_json
from tomoseg.core.tables import write_csv
from tomoseg.core.version import __version__
from tomoseg.evaluation.bootstrap import CONFIDENCE_LEVEL, RESAMPLES, SEED
from tomoseg.evaluation.case import CaseScores, LabelScores, scores_of
from tomoseg.evaluation.config import EvaluationConfig
from tomoseg.evaluation.metrics import METRICS
from tomoseg.evaluation.summary import PRESENCE, LabelSummary
from tomoseg.report.environment import installed_packages, utc_now

METRIC_PACKAGES = ("nibabel", "numpy", "scipy", "SimpleITK")  # those that compute
CASE_COLUMNS = (
    "case", "label", "name", *(metric.key for metric in METRICS), "predicted_ml", "reference_ml",
    "voxels_both", "voxels_predicted_only", "voxels_reference_only", "prediction", "reference",
)  # fmt: skip
BOOTSTRAP = {"level": CONFIDENCE_LEVEL, "resamples": RESAMPLES, "seed": SEED, "method": "percentile, cases resampled"}
SUMMARY_COLUMNS = (
    "label", "name", "metric", "mean", "low", "high", "sd", "median", "cases", "infinite", "undefined",
)  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """Predictions, compared with their references.

    Attributes:
        predictions, references: paths as given.
        config: how they were compared.
        cases: by name; those that failed, too.
        summaries: of each label, then of all labels.
        notes: on the whole.
        left_out: number of references without a prediction that were not asked for.
        started, finished: UTC, ISO 8601.
    """

    predictions: Path
    references: Path
    config: EvaluationConfig
    cases: tuple[CaseScores, ...]
    summaries: tuple[LabelSummary, ...]
    notes: tuple[str, ...] = ()
    left_out: int = 0
    started: str = ""
    finished: str = ""

    @property
    def done(self) -> list[CaseScores]:
        """Cases that were compared."""
        return [case for case in self.cases if case.status == "done"]

    @property
    def failed(self) -> list[CaseScores]:
        """Cases that could not be compared."""
        return [case for case in self.cases if case.status == "failed"]

    def scores(self, case: CaseScores) -> list[LabelScores]:
        """Return the scores of a case: of each label that is summarised, even if it has none of it."""
        return list(filter(None, scores_of(case, (one.label for one in self.summaries if one.label))))

    def as_json(self) -> Any:
        """Return it for JSON: null for undefined values, "inf" for infinite distances."""
        return to_json(
            {
                "tomoseg": __version__,
                "python": platform.python_version(),
                "packages": installed_packages(METRIC_PACKAGES),
                "predictions": self.predictions,
                "references": self.references,
                "started": self.started,
                "finished": self.finished or utc_now(),
                "config": self.config,
                "bootstrap": BOOTSTRAP,
                "notes": self.notes,
                "counts": {"done": len(self.done), "failed": len(self.failed), "left_out": self.left_out},
                "labels": list(map(_summary, self.summaries)),
                "cases": list(map(self._case, self.cases)),
            }
        )

    def save(self, path: Path) -> None:
        """Write all of it as JSON, atomically.

        Raises:
            OutputError: it cannot be written.
        """
        write_json(path, self.as_json())

    def save_cases(self, path: Path) -> None:
        """Write the scores as CSV, one row a case and label, atomically.

        The columns are `CASE_COLUMNS`. A cell is empty where a number is not defined; an infinite distance is "inf".

        Raises:
            OutputError: it cannot be written.
        """
        write_csv(path, CASE_COLUMNS, (self._row(case, one) for case in self.done for one in self.scores(case)))

    def save_summary(self, path: Path) -> None:
        """Write means, intervals and counts as CSV, one row a label and metric, atomically.

        The columns are `SUMMARY_COLUMNS`. The rows of presence have no SD and no median, and their "cases" are all
        that were counted. Label 0 is all labels.

        Raises:
            OutputError: it cannot be written.
        """
        write_csv(path, SUMMARY_COLUMNS, (row for one in self.summaries for row in _summary_rows(one)))

    def _row(self, case: CaseScores, one: LabelScores) -> tuple[object, ...]:
        voxels = one.overlap.both, one.overlap.predicted_only, one.overlap.reference_only
        return (case.name, *map(_cell, self._label(one).values()), *voxels, case.prediction, case.reference)

    def _label(self, one: LabelScores) -> dict[str, Any]:
        measured = {metric.key: metric.of(one) for metric in METRICS}
        volumes = {"predicted_ml": one.predicted_ml, "reference_ml": one.reference_ml}
        return {"label": one.label, "name": self.config.name(one.label), **measured, **volumes}

    def _case(self, case: CaseScores) -> dict[str, Any]:
        known = {key: value for key, value in vars(case).items() if key not in ("absent", "image")}
        labels = [{**self._label(one), "voxels": one.overlap} for one in self.scores(case)]
        return {**known, "seconds": round(case.seconds, 4), "labels": labels}


def _summary(one: LabelSummary) -> dict[str, Any]:
    content = {**asdict(one), "bland_altman": one.agreement and asdict(one.agreement)}
    for found in content["metrics"].values():
        low_and_high = found["mean"]
        found |= {"mean": low_and_high.pop("value"), **low_and_high}
    return content


def _summary_rows(one: LabelSummary) -> Iterator[tuple[object, ...]]:
    for key, found in one.metrics.items():
        mean, *rest = vars(found).values()
        yield (one.label, one.name, key, *map(_cell, (*vars(mean).values(), *rest)))
    presence = one.presence
    counted = presence.both + presence.predicted_only + presence.reference_only + presence.neither
    for key in PRESENCE:
        numbers = map(_cell, vars(getattr(presence, key)).values())
        yield (one.label, one.name, f"presence_{key}", *numbers, "", "", counted, 0, 0)


def _cell(value: object) -> object:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.9g}"

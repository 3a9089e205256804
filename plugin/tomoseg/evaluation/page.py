"""The page of an evaluation: summaries, plots, worst cases, and a table of all cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from tomoseg.core.version import __version__
from tomoseg.evaluation.bootstrap import RESAMPLES, SEED
from tomoseg.evaluation.case import CaseScores, LabelScores
from tomoseg.evaluation.metrics import BY_KEY, METRICS, Metric
from tomoseg.evaluation.plots import AgreementPlot, BoxPlot, Point, plan_agreement, plan_boxes
from tomoseg.evaluation.results import Evaluation
from tomoseg.evaluation.summary import Agreement, LabelSummary
from tomoseg.evaluation.worst import WorstCase
from tomoseg.report.html.template import write_html
from tomoseg.report.text import show_moment

PLOTTED = tuple(BY_KEY[key] for key in ("dice", "nsd", "hd95_mm", "assd_mm"))
LISTED = 3000  # rows of the table; of more, those with the lowest Dice
CHIPS = 12  # labels to choose from; more are searched for
Row = tuple[CaseScores, LabelScores]


def write_page(evaluation: Evaluation, worst: Sequence[WorstCase], path: Path) -> None:
    """Write an evaluation as a single HTML file, atomically; it asks the network for nothing.

    Args:
        evaluation: what was found.
        worst: the cases to show, with their pictures.
        path: of the page.

    Raises:
        OutputError: it cannot be written.
    """
    rows = [(case, one) for case in evaluation.done for one in evaluation.scores(case)]
    scored = [one for one in evaluation.summaries if one.label]
    groups: dict[int, list[Row]] = {one.label: [] for one in scored}
    for row in rows:
        groups[row[1].label].append(row)
    rows.sort(key=lambda row: (math.isnan(row[1].overlap.dice), row[1].overlap.dice))
    write_html(
        path,
        "tomoseg.evaluation",
        "evaluation.html",
        evaluation=evaluation,
        summaries=evaluation.summaries,
        when=_when(evaluation),
        details=_details(evaluation),
        metrics=METRICS,
        boxes=[(metric, plot) for metric in PLOTTED if (plot := _boxes(metric, scored, groups))],
        agreements=[
            (one.name, one.agreement, _agreement(one.agreement, groups[one.label]))
            for one in scored
            if one.agreement and groups[one.label]
        ],
        worst=worst,
        rows=rows[:LISTED],
        row_count=len(rows),
        chips=[(f"label-{one.label}", one.name) for one in scored] if 1 < len(scored) <= CHIPS else [],
        resamples=f"{RESAMPLES:,}",
        seed=SEED,
    )


def _when(evaluation: Evaluation) -> str:
    moment = f"{show_moment(datetime.fromisoformat(evaluation.started))} UTC · " if evaluation.started else ""
    return f"{moment}tomoseg {__version__}"


def _boxes(metric: Metric, scored: Sequence[LabelSummary], groups: Mapping[int, Sequence[Row]]) -> BoxPlot | None:
    points = [
        (
            one.name,
            [Point(case.name, x) for case, scores in groups[one.label] if not math.isnan(x := metric.of(scores))],
        )
        for one in scored
    ]
    return plan_boxes(metric.unit, points) if any(found for _, found in points) else None


def _agreement(found: Agreement, rows: Sequence[Row]) -> AgreementPlot:
    points = [
        Point(case.name, (scores.predicted_ml + scores.reference_ml) / 2, scores.volume_error_ml)
        for case, scores in rows
    ]
    return plan_agreement(points, found.bias_ml, (found.low_ml, found.high_ml))


def _details(evaluation: Evaluation) -> dict[str, str]:
    protocol = evaluation.protocol
    return {
        "Predictions": str(evaluation.predictions),
        "References": str(evaluation.references),
        "Tolerance": f"{protocol.tolerance_mm:g} mm",
        **{
            f"Tolerance of {protocol.name(value)}": f"{length:g} mm"
            for value, length in sorted(protocol.tolerances_mm.items())
        },
        "Ignored value": "" if protocol.ignore is None else str(protocol.ignore),
        "Within the reference's slices": ", ".join(protocol.name(value) for value in sorted(protocol.within_slices)),
    }

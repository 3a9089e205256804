"""The page of an evaluation: summaries, plots, worst cases, and a table of all cases."""

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
from tomoseg.evaluation.summary import LabelSummary, VolumeAgreement
from tomoseg.evaluation.worst import WorstCase
from tomoseg.report.html.template import write_html
from tomoseg.report.text import show_moment

PLOTTED_METRICS = tuple(BY_KEY[key] for key in ("dice", "nsd", "hd95_mm", "assd_mm"))
MAX_TABLE_ROWS = 3000  # rows of the table; of more, those with the lowest Dice
MAX_LABEL_CHIPS = 12  # labels to choose from; more are searched for
Row = tuple[CaseScores, LabelScores]


def write_page(evaluation: Evaluation, worst: Sequence[WorstCase], path: Path) -> None:
    """Write an evaluation as a single HTML file, atomically; it asks the network for nothing.

    Args:
        evaluation: result of the evaluation.
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
    started = f"{show_moment(datetime.fromisoformat(evaluation.started))} UTC · " if evaluation.started else ""
    write_html(
        path,
        Path(__file__).parent,
        "evaluation.html",
        evaluation=evaluation,
        when=f"{started}tomoseg {__version__}",
        within=", ".join(map(evaluation.config.name, sorted(evaluation.config.within_slices))),
        metrics=METRICS,
        boxes=[(metric, _boxes(metric, scored, groups)) for metric in PLOTTED_METRICS],
        agreements=[
            (one.name, one.agreement, _agreement(one.agreement, groups[one.label])) for one in scored if one.agreement
        ],
        worst=worst,
        rows=sorted(rows, key=lambda row: (math.isnan(row[1].overlap.dice), row[1].overlap.dice)),
        listed=MAX_TABLE_ROWS,
        chips=[(f"label-{one.label}", one.name) for one in scored] if 1 < len(scored) <= MAX_LABEL_CHIPS else [],
        resamples=f"{RESAMPLES:,}",
        seed=SEED,
    )


def _boxes(metric: Metric, scored: Sequence[LabelSummary], groups: Mapping[int, Sequence[Row]]) -> BoxPlot:
    points = [(one.name, [Point(case.name, metric.of(scores)) for case, scores in groups[one.label]]) for one in scored]
    return plan_boxes(metric.unit, points)


def _agreement(found: VolumeAgreement, rows: Sequence[Row]) -> AgreementPlot:
    points = [Point(case.name, (one.predicted_ml + one.reference_ml) / 2, one.volume_error_ml) for case, one in rows]
    return plan_agreement(points, found.bias_ml, (found.low_ml, found.high_ml))

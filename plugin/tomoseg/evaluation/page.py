"""An evaluation as one page for the browser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path

from tomoseg.core.version import __version__
from tomoseg.evaluation.bootstrap import RESAMPLES, SEED
from tomoseg.evaluation.case import CaseScores, LabelScores
from tomoseg.evaluation.metrics import BY_KEY, METRICS, Metric
from tomoseg.evaluation.plots import Point, draw_agreement, draw_boxes
from tomoseg.evaluation.results import Evaluation
from tomoseg.evaluation.summary import PRESENCE, Estimate, LabelSummary
from tomoseg.evaluation.text import show_interval, show_number
from tomoseg.evaluation.worst import WorstCase
from tomoseg.report.html.shell import read_asset, write_html

PLOTTED_METRICS = ("dice", "nsd", "hd95_mm", "assd_mm")
MAX_TABLE_ROWS = 3000  # rows of the table; of more, those with the lowest Dice
MAX_REASONS = 20  # that stand above the table
MAX_LABEL_CHIPS = 12  # labels to choose from; more are searched for


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
    rows_of: dict[int, list[Row]] = {one.label: [] for one in scored}
    for row in rows:
        rows_of[row[1].label].append(row)
    rows.sort(key=lambda row: (math.isnan(row[1].overlap.dice), row[1].overlap.dice))
    write_html(
        path,
        read_asset("tomoseg.evaluation", "evaluation.html"),
        read_asset("tomoseg.evaluation", "evaluation.css"),
        title=escape(f"Evaluation of {evaluation.predictions.name}: {len(evaluation.done)} cases"),
        heading=f"<bdi>{escape(evaluation.predictions.name)}</bdi> "
        f"<small>against <bdi>{escape(str(evaluation.references))}</bdi></small>",
        when=escape(_when(evaluation)),
        verdict=_verdict(evaluation),
        alert="".join(f"<p class=alert role=note>{escape(remark)}</p>" for remark in evaluation.remarks),
        failures=_failures(evaluation.failed),
        summary=_summary(evaluation.summaries),
        boxes="".join(_boxes(BY_KEY[key], scored, rows_of) for key in PLOTTED_METRICS),
        agreement="".join(_agreement(one, rows_of[one.label]) for one in scored),
        presence=_presence(evaluation.summaries),
        worst=_worst(evaluation, worst),
        listed=escape(_listed(len(rows))),
        filters=_filters(scored),
        cases=_cases(evaluation, rows[:MAX_TABLE_ROWS]),
        notes=_notes(),
        details=_details(evaluation),
    )


Row = tuple[CaseScores, LabelScores]


def _when(evaluation: Evaluation) -> str:
    try:
        start = datetime.fromisoformat(evaluation.started)
    except ValueError:
        return f"tomoseg {__version__}"
    return f"{start.day} {start:%B %Y, %H:%M} UTC · tomoseg {__version__}"


def _verdict(evaluation: Evaluation) -> str:
    parts = [f"<b>{len(evaluation.done)}</b> of {_count(len(evaluation.cases), 'case')} scored"]
    if evaluation.failed:
        parts.append(f"<b class=failed>{len(evaluation.failed)} failed</b>")
    if evaluation.left_out:
        parts.append(f"{_count(evaluation.left_out, 'reference')} without prediction left out")
    for one in evaluation.summaries[-1:]:
        parts.append(
            f"Dice <b>{show_number(one.metrics['dice'].mean.value, 3)}</b> {show_interval(one.metrics['dice'].mean, 3)}"
        )
    return " · ".join(parts)


def _failures(failed: Sequence[CaseScores]) -> str:
    if not failed:
        return ""
    listed = "".join(f"<dt>{escape(case.reason)}</dt>" for case in failed[:MAX_REASONS])
    rest = len(failed) - MAX_REASONS
    more = f"<p>{_count(rest, 'more case')}: see evaluation.json.</p>" if rest > 0 else ""
    return (
        f"<section class=failures aria-labelledby=failures><h2 id=failures>{_count(len(failed), 'case')} failed</h2>"
        f"<dl>{listed}</dl>{more}</section>"
    )


def _summary(summaries: Sequence[LabelSummary]) -> str:
    if not summaries:
        return "<p>No case could be scored.</p>"
    heads = "".join(
        f'<th scope=col class=n title="{escape(metric.explanation)}">{metric.title}'
        f"{f' <small>{metric.unit}</small>' if metric.unit else ''}</th>"
        for metric in METRICS
    )
    body = "".join(
        f"<tr{_together(one)}><th scope=row><b>{escape(one.name)}</b>{_tolerance(one)}</th>"
        f"{''.join(_metric_cell(one, metric) for metric in METRICS)}</tr>"
        for one in summaries
    )
    return (
        "<table class=summary><caption>One row a label: the mean of each metric and its interval</caption>"
        f"<thead><tr><th scope=col>Label</th>{heads}</tr></thead><tbody>{body}</tbody></table>"
    )


def _metric_cell(one: LabelSummary, metric: Metric) -> str:
    found = one.metrics[metric.key]
    told = [_count(found.cases, "value")]
    if not math.isnan(found.median):
        told.append(f"median {show_number(found.median, metric.decimals)}")
    if not math.isnan(found.sd):
        told.append(f"SD {show_number(found.sd, metric.decimals)}")
    if found.infinite:
        told.append(f"{found.infinite} infinite, left out of the mean")
    if found.undefined:
        told.append(f"{found.undefined} undefined")
    infinite = f"<small class=far>+ {found.infinite} × ∞</small>" if found.infinite else ""
    return (
        f'<td class=n data-name="{metric.title}" title="{", ".join(told)}">'
        f"{show_number(found.mean.value, metric.decimals)}<small>{show_interval(found.mean, metric.decimals)}</small>"
        f"{infinite}</td>"
    )


def _presence(summaries: Sequence[LabelSummary]) -> str:
    if not summaries:
        return ""
    counts = ("both", "predicted_only", "reference_only", "neither")
    heads = "".join(
        f"<th scope=col class=n>{name}</th>" for name in ("In both", "Predicted only", "Missed", "In neither")
    )
    heads += "".join(f"<th scope=col class=n>{_presence_title(key)}</th>" for key in PRESENCE)
    body = ""
    for one in summaries:
        cells = "".join(
            f'<td class=n data-name="{key.replace("_", " ")}">{getattr(one.presence, key)}</td>' for key in counts
        )
        for key in PRESENCE:
            estimate: Estimate = getattr(one.presence, key)
            cells += (
                f'<td class=n data-name="{_presence_title(key)}">{show_number(estimate.value, 3)}'
                f"<small>{show_interval(estimate, 3)}</small></td>"
            )
        body += f"<tr{_together(one)}><th scope=row><b>{escape(one.name)}</b></th>{cells}</tr>"
    return (
        "<table class=summary><caption>One row a label: whether it was found in the cases that have it</caption>"
        f"<thead><tr><th scope=col>Label</th>{heads}</tr></thead><tbody>{body}</tbody></table>"
    )


def _presence_title(key: str) -> str:
    return "F1" if key == "f1" else key.capitalize()


def _boxes(metric: Metric, scored: Sequence[LabelSummary], rows_of: Mapping[int, Sequence[Row]]) -> str:
    groups = [
        (
            one.name,
            [
                Point(case.name, metric.of(scores))
                for case, scores in rows_of[one.label]
                if not math.isnan(metric.of(scores))
            ],
        )
        for one in scored
    ]
    if not any(points for _, points in groups):
        return ""
    plot = draw_boxes(metric.title, metric.unit, groups, metric.decimals)
    return f"<figure><figcaption>{metric.title}<small>{escape(metric.explanation)}</small></figcaption>{plot}</figure>"


def _agreement(one: LabelSummary, rows: Sequence[Row]) -> str:
    points = [
        Point(case.name, (scores.predicted_ml + scores.reference_ml) / 2, scores.volume_error_ml)
        for case, scores in rows
    ]
    found = one.agreement
    if not points or found is None:
        return ""
    plot = draw_agreement(one.name, points, found.bias_ml, (found.low_ml, found.high_ml))
    told = f"bias {show_number(found.bias_ml, 2)} mL"
    if not math.isnan(found.low_ml):
        told += f", limits of agreement {found.low_ml:.2f} to {found.high_ml:.2f} mL"
    return f"<figure><figcaption>{escape(one.name)}<small>{told}</small></figcaption>{plot}</figure>"


def _worst(evaluation: Evaluation, worst: Sequence[WorstCase]) -> str:
    if not worst:
        return ""
    figures = "".join(_figure(evaluation, one) for one in worst)
    where = "The lowest Dice of any label first. Each plane is the one with the most wrong voxels of that label."
    return (
        f"<section aria-labelledby=worst><h2 id=worst>Worst cases</h2><p class=where>{escape(where)}</p>"
        f"<div class=worst>{figures}</div></section>"
    )


def _figure(evaluation: Evaluation, one: WorstCase) -> str:
    name = evaluation.protocol.name(one.scores.label)
    metrics = [BY_KEY[key] for key in ("dice", "hd95_mm", "volume_error_ml")]
    told = ", ".join(
        f"{metric.title} {show_number(metric.of(one.scores), metric.decimals)} {metric.unit}".strip()
        for metric in metrics
    )
    picture = (
        f'<img loading=lazy decoding=async src="{one.picture}" width=1080 height=804 '
        f'alt="{escape(one.case.name)} in three planes: reference above, prediction below">'
        if one.picture
        else ""
    )
    caption = f"<b><bdi>{escape(one.case.name)}</bdi></b>\n{escape(name)}: {told}"
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _listed(rows: int) -> str:
    if rows <= MAX_TABLE_ROWS:
        return "One row a case and label, the lowest Dice first; metrics.csv has the same for programs."
    return f"The {MAX_TABLE_ROWS} rows of {rows} with the lowest Dice; metrics.csv has all."


def _filters(scored: Sequence[LabelSummary]) -> str:
    if not 1 < len(scored) <= MAX_LABEL_CHIPS:
        return ""
    chips = ['<button type=button data-kind="" aria-pressed=true>all labels</button>']
    chips += [
        f"<button type=button data-kind=label-{one.label} aria-pressed=false>{escape(one.name)}</button>"
        for one in scored
    ]
    return "".join(chips)


def _cases(evaluation: Evaluation, rows: Sequence[Row]) -> str:
    heads = "<th scope=col data-sort>Case</th><th scope=col data-sort>Label</th>"
    heads += "".join(
        f'<th scope=col data-sort class="n" title="{escape(metric.explanation)}">{metric.title}'
        f"{f' <small>{metric.unit}</small>' if metric.unit else ''}</th>"
        for metric in METRICS
    )
    body = "\n".join(_case_row(evaluation, case, one) for case, one in rows)
    return (
        "<table class=all id=cases-table><caption>One row a case and label, the lowest Dice first</caption>"
        f"<thead><tr>{heads}</tr></thead>\n<tbody>{body}</tbody></table>"
    )


def _case_row(evaluation: Evaluation, case: CaseScores, one: LabelScores) -> str:
    cells = "".join(
        f'<td class=n data-name="{metric.title}"{_key(value)}>{show_number(value, metric.decimals)}</td>'
        for metric, value in ((metric, metric.of(one)) for metric in METRICS)
    )
    remarks = "".join(f"<small>{escape(remark)}</small>" for remark in case.remarks)
    return (
        f"<tr class=label-{one.label}><th scope=row><b><bdi>{escape(case.name)}</bdi></b>{remarks}</th>"
        f"<td class=look>{escape(evaluation.protocol.name(one.label))}</td>{cells}</tr>"
    )


def _key(value: float) -> str:
    """Return what to sort by: infinite distances are the largest."""
    return ' data-v="1e308"' if math.isinf(value) else f' data-v="{value:.9g}"' if not math.isnan(value) else ""


def _notes() -> str:
    told = [
        "A label that neither prediction nor reference has in a case scores nothing there (but it is right about its "
        "absence); one that only one of them has scores a Dice and an NSD of 0 and infinite distances, which are left "
        "out of the mean and counted beside it.",
        "Surfaces are MONAI's: the voxels with a face towards the outside, each counted as one, distances from centre "
        f"to centre. Intervals: cases drawn with replacement {RESAMPLES:,} times (seed {SEED}), 2.5th to 97.5th "
        "percentile; below about 20 cases they are too narrow.",
        "For research only; not for diagnosis or treatment.",
    ]
    return "".join(f"<p>{text}</p>" for text in told)


def _details(evaluation: Evaluation) -> str:
    protocol = evaluation.protocol
    entries = {
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
    told = "".join(f"<dt>{escape(key)}</dt><dd>{escape(text)}</dd>" for key, text in entries.items() if text)
    return f"<details><summary>How it was compared</summary><dl>{told}</dl></details>"


def _tolerance(one: LabelSummary) -> str:
    return "" if one.tolerance_mm is None else f"<small>NSD at {one.tolerance_mm:g} mm</small>"


def _together(one: LabelSummary) -> str:
    return "" if one.label else " class=together"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

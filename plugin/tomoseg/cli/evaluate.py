"""`tomoseg evaluate`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomoseg.cli.arguments import BundleOption, JsonOption, QuietOption, TrustOption
from tomoseg.cli.terminal import print_table, status
from tomoseg.cli.trust import find_trusted
from tomoseg.core.files import read_text
from tomoseg.core.notes import print_error, print_json, print_line, print_note
from tomoseg.core.reading import ReadOptions, read_with
from tomoseg.evaluation.options import EvaluationOptions
from tomoseg.report.text import show_number

if TYPE_CHECKING:
    from tomoseg.evaluation.case import CaseScores
    from tomoseg.evaluation.results import Evaluation
    from tomoseg.evaluation.summary import Estimate

SHOWN_METRICS = ("dice", "hd95_mm", "assd_mm", "nsd", "volume_error_ml")


def evaluate(
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS")],
    references: Annotated[Path, typer.Argument(metavar="REFERENCES")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER")],
    *,
    bundle: BundleOption = "",
    trust: TrustOption = False,
    options: EvaluationOptions,
    reading: ReadOptions,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare label maps with reference label maps of the same file names.

    Args:
        predictions: predicted label map, or a folder of them.
        references: reference label map, a folder of them, or a labelled dataset.
        output: folder of the results.
        bundle: a registered name, its beginning, or a folder written as ./name.

    Examples:
        tomoseg evaluate results/ references/ -o evaluation/
        tomoseg evaluate results/ references/ -o evaluation/ --tolerance 2 --worst 10
    """
    chosen = find_trusted(bundle, trust) if bundle else None

    from tomoseg.evaluation.run import evaluate as compare

    count = 0
    with status("looking for cases") as show:

        def print_case(case: CaseScores, total: int) -> None:
            nonlocal count
            count += 1
            show(f"{count} of {total} cases")
            if case.status == "failed":
                print_error(case.reason)
            for note in case.notes:
                print_note(f"{case.prediction}: {note}")

        with read_with(reading):
            found = compare(predictions, references, options, bundle=chosen, output=output, on_case=print_case)
    for note in found.notes:
        print_note(note)
    if as_json:
        print_json(read_text(output / "evaluation.json"))
    elif not quiet:
        _print_summary(found)
        print_line(f"{len(found.done)} of {len(found.cases)} cases; see {output / 'evaluation.html'}")
    if found.failed:
        raise typer.Exit(1)


def _print_summary(found: Evaluation) -> None:
    from tomoseg.evaluation.metrics import BY_KEY

    shown = [BY_KEY[key] for key in SHOWN_METRICS]
    rows = []
    for summary in found.summaries:
        cells = [_show_estimate(summary.metrics[one.key].mean, one.decimals) for one in shown]
        unusual = summary.tolerance_mm not in (None, 1.0)
        name = f"{summary.name} (NSD at {summary.tolerance_mm:g} mm)" if unusual else summary.name
        rows.append((name, *cells, _show_estimate(summary.presence.f1, 3)))
    print_table("", ("label", *(f"{one.title} {one.unit}".strip() for one in shown), "present F1"), rows)
    if found.summaries:
        print_line(
            "mean [95 % bootstrap interval]; infinite and undefined values are left out and counted in summary.csv"
        )


def _show_estimate(estimate: Estimate, decimals: int) -> str:
    """Return a number with its interval, e.g. "0.896 [0.885, 0.906]"."""
    value, low, high = (show_number(number, decimals) for number in (estimate.value, estimate.low, estimate.high))
    return value if math.isnan(estimate.low) else f"{value} [{low}, {high}]"

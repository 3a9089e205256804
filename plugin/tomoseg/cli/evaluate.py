"""`tomoseg evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tomoseg.bundle.registry import find_bundle
from tomoseg.cli.arguments import BundleOption, QuietOption, ThreadsOption
from tomoseg.cli.terminal import console
from tomoseg.core.errors import UsageError
from tomoseg.core.notes import print_error, print_note

if TYPE_CHECKING:
    from tomoseg.evaluation.case import CaseScores
    from tomoseg.evaluation.results import Evaluation

SHOWN_METRICS = ("dice", "hd95_mm", "assd_mm", "nsd", "volume_error_ml")


def evaluate(
    predictions: Annotated[Path, typer.Argument(metavar="PRED", help="A predicted label map, or a folder of them.")],
    references: Annotated[
        Path, typer.Argument(metavar="REF", help="Its reference, a folder of them, or a labelled dataset.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder for the results.", show_default=False)],
    bundle: BundleOption = "",
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="1=NAME,2=NAME|FILE",
            help="What is scored; by default the labels of the bundle, those of dataset.json, or all that occur.",
        ),
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LENGTH|NAME=LENGTH|FILE",
            help="Of the normalised surface distance, 1mm by default; may be given several times.",
            show_default=False,
        ),
    ] = None,
    ignore_label: Annotated[
        int | None, typer.Option(metavar="VALUE", min=1, help="Voxels of this value in a reference are not looked at.")
    ] = None,
    within_slices: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Score this label between the first and last slice of its reference only, as for the spinal cord.",
            show_default=False,
        ),
    ] = None,
    only_predicted: Annotated[
        bool, typer.Option("--only-predicted", help="Leave out references that have no prediction.")
    ] = False,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The scans, for pictures; a dataset's own are found.")
    ] = None,
    worst: Annotated[int, typer.Option(metavar="N", min=0, help="Show so many of the worst cases.")] = 6,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Tell how good label maps are, by references of the same names."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: expected a folder for the results, got a file")
    from tomoseg.evaluation.protocol import parse_labels
    from tomoseg.evaluation.run import Rules, save_evaluation
    from tomoseg.evaluation.run import evaluate as compare
    from tomoseg.evaluation.worst import find_images

    own = find_bundle(bundle) if bundle else None
    names = own.labels if own else None
    if labels is not None:
        names = parse_labels(labels)
    if images is not None:  # rather before all cases than after
        find_images(images)
    rules = Rules(names, tolerance or (), ignore_label, within_slices or (), own.dataset_values if own else {})
    with Console(stderr=True).status("looking for cases") as status:  # nothing is shown where nobody looks
        count = 0

        def told(case: CaseScores, total: int) -> None:
            nonlocal count
            count += 1
            status.update(f"{count} of {total} cases")
            if case.status == "failed":
                print_error(case.reason)
            for remark in case.remarks:
                print_note(f"{case.prediction}: {remark}")

        found = compare(predictions, references, rules, only_predicted=only_predicted, threads=threads, on_case=told)
        status.update("writing")
        save_evaluation(found, output, images=images, worst=worst)
    for remark in found.remarks:
        print_note(remark)
    if not quiet:
        _print_summary(found)
        print(f"{len(found.done)} of {len(found.cases)} cases; see {output / 'evaluation.html'}", flush=True)
    if found.failed:
        raise typer.Exit(1)


def _print_summary(found: Evaluation) -> None:
    from tomoseg.evaluation.metrics import BY_KEY
    from tomoseg.evaluation.text import show_estimate, show_tolerance

    shown = [BY_KEY[key] for key in SHOWN_METRICS]
    table = Table("label", *(f"{one.title} {one.unit}".strip() for one in shown), "present F1", title_justify="left")
    for summary in found.summaries:
        cells = [show_estimate(summary.metrics[one.key].mean, one.decimals) for one in shown]
        name = f"{summary.name}{show_tolerance(summary)}"
        table.add_row(escape(name), *map(escape, cells), escape(show_estimate(summary.presence.f1, 3)))
    console().print(table)
    if found.summaries:
        print("mean [95 % bootstrap interval]; infinite and undefined values are left out and counted in summary.csv")

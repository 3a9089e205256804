"""`tomoseg plan`."""

from pathlib import Path
from typing import Annotated

import typer

from tomoseg.bundle.planned import PLAN
from tomoseg.bundle.registry import as_folder
from tomoseg.cli.arguments import JsonOption, QuietOption
from tomoseg.cli.terminal import print_table, status
from tomoseg.core.errors import DatasetError
from tomoseg.core.files import read_text
from tomoseg.core.notes import collect_notes, print_error, print_json, print_line, print_note, print_warning
from tomoseg.core.reading import ReadOptions, read_with
from tomoseg.planning.options import PlanningOptions


def plan(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="BUNDLE")],
    options: PlanningOptions,
    reading: ReadOptions,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a MONAI bundle for training on a labelled dataset, with a reason for each choice.

    Args:
        dataset: scans and label maps in the layout of the Decathlon, of nnU-Net, or in two folders.
        output: folder of the new bundle.

    Examples:
        tomoseg plan dataset/ -o mine
        tomoseg plan dataset/ -o mine --label-names 1=anterior,2=posterior
    """
    from tomoseg.planning.bundle_writer import plan as make_plan

    try:
        with status("looking at the dataset") as show, read_with(reading), collect_notes() as notes:
            made = make_plan(dataset, output, options, on_scan=show, on_warning=None if quiet else print_warning)
    except DatasetError as error:
        for problem in error.errors:
            print_error(problem)
        raise typer.Exit(1) from None
    if not quiet:
        for note in notes:
            print_note(note)
    if as_json:
        print_json(read_text(output / PLAN))
    if quiet or as_json:
        return
    rows = []
    for choice, value in made.choices().items():
        shown = ", ".join(f"{key} {entry}" for key, entry in value.items()) if isinstance(value, dict) else str(value)
        rows.append((choice.replace("_", " "), shown, made.reasons[choice]))
    print_table(f"{output} ({made.modality}, {options.trained_on})", ("choice", "", "why"), rows)
    if made.guessed:
        print_line(f"taken for {made.modality} by the values of its first scan; if it is not, plan it with --modality")
    print_line(f"next: tomoseg train {as_folder(output)} --data {dataset}")

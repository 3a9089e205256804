"""`tomoseg check`."""

from pathlib import Path
from typing import Annotated

import typer

from tomoseg.cli.arguments import JsonOption
from tomoseg.cli.terminal import print_table, status
from tomoseg.core.json_files import format_json


def check(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...")],
    voxels: Annotated[bool, typer.Option("--voxels")] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell what scans and labelled datasets hold, and what is wrong with them.

    Args:
        paths: scans, folders with scans, or labelled datasets.
        voxels: read the voxels, too, not only the headers.
    """
    from tomoseg.data.inspection.inspection_report import inspect
    from tomoseg.data.inspection.tables import list_errors, list_notes, tabulate

    with status("looking for scans") as show:
        report = inspect(paths, voxels=voxels, on_scan=show)
    if as_json:
        print(format_json(report.as_json()), end="")
    else:
        for content in tabulate(report):
            print_table(content.title, content.columns, content.rows)
        for note in list_notes(report):
            print(f"note: {note}")
        for problem in list_errors(report):
            print(f"problem: {problem}")
    if not report.ok:
        raise typer.Exit(1)

"""`tomoseg check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tomoseg.cli.arguments import JsonOption
from tomoseg.cli.terminal import print_table, status
from tomoseg.core.json_files import format_json


def check(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Scans, folders with scans, or labelled datasets.")
    ],
    voxels: Annotated[bool, typer.Option("--voxels", help="Read the voxels, too, not only the headers.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell what scans and labelled datasets hold, and what is wrong with them."""
    from tomoseg.data.inspection.survey import inspect
    from tomoseg.data.inspection.tables import list_problems, list_remarks, tabulate

    with status("looking for scans") as show:
        survey = inspect(paths, voxels=voxels, on_scan=show)
    if as_json:
        print(format_json(survey.as_json()), end="")
    else:
        for content in tabulate(survey):
            print_table(content.title, content.columns, content.rows)
        for remark in list_remarks(survey):
            print(f"note: {remark}")
        for problem in list_problems(survey):
            print(f"problem: {problem}")
    if not survey.ok:
        raise typer.Exit(1)

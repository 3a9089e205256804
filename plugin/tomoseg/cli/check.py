"""`tomoseg check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tomoseg.cli.terminal import console
from tomoseg.core.json_files import format_json


def check(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Scans, folders with scans, or labelled datasets.")
    ],
    voxels: Annotated[bool, typer.Option("--voxels", help="Read the voxels, too, not only the headers.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what scans and labelled datasets hold, and what is wrong with them."""
    from tomoseg.data.inspection.survey import inspect_paths
    from tomoseg.data.inspection.tables import list_problems, list_remarks, tabulate

    with Console(stderr=True).status("looking for scans") as status:  # nothing is shown where nobody looks
        survey = inspect_paths(paths, voxels=voxels, on_scan=lambda path: status.update(escape(str(path))))
    if as_json:
        print(format_json(survey.as_json()), end="")
    else:
        shown = console()
        for content in tabulate(survey):
            table = Table(title=escape(content.title), title_justify="left")
            for name in content.columns:
                table.add_column(name, overflow="fold")  # a path or a UID is of use only whole
            for row in content.rows:
                table.add_row(*map(escape, row))
            shown.print(table)
        for remark in list_remarks(survey):
            print(f"note: {remark}")
        for problem in list_problems(survey):
            print(f"problem: {problem}")
    if not survey.ok:
        raise typer.Exit(1)

"""`tomoseg mercure`."""

import os
from pathlib import Path

import typer

from tomoseg.cli.lazy_import import collector_paused
from tomoseg.core.errors import UsageError
from tomoseg.core.notes import print_error, print_line
from tomoseg.core.reader_process import start_reading


def mercure() -> None:
    """Segment the series that the DICOM orchestrator mercure hands over, as a module of it.

    The folders are those of the environment variables MERCURE_IN_DIR and MERCURE_OUT_DIR, and the settings stand in
    task.json.

    Examples:
        tomoseg mercure
    """
    folders = [Path(os.environ.get(name, "")) for name in ("MERCURE_IN_DIR", "MERCURE_OUT_DIR")]
    if not all(folder.is_dir() and folder != Path() for folder in folders):
        raise UsageError("expected folders in MERCURE_IN_DIR and MERCURE_OUT_DIR. mercure sets them")
    start_reading("tomoseg.data.read")
    with collector_paused():
        from tomoseg.batch.mercure import run_module

    report = run_module(*folders)
    for case in report.failed:
        print_error(case.reason)
    print_line(f"{len(report.cases) - len(report.failed)} of {len(report.cases)} series segmented")
    if report.failed:
        raise typer.Exit(1)

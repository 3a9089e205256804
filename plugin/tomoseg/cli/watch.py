"""`tomoseg watch`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from tomoseg.bundle.options import Options
from tomoseg.cli.arguments import BundleOption, OutputTypeOption, PreviewOption, QuietOption, with_options
from tomoseg.cli.loading import load_segmenter, refuse_no_bundle
from tomoseg.cli.outcome import print_case, save_reports
from tomoseg.cli.progress import BatchProgress
from tomoseg.core.errors import OutputError, UsageError, one_line
from tomoseg.core.notes import print_error
from tomoseg.data.formats import choose_output_type, names_output_file
from tomoseg.report.records import CaseReport, Report

MAX_SCANS_ON_PAGE = 300  # scans; a browser need not load those of last year


@with_options
def watch(
    inbox: Annotated[Path, typer.Argument(metavar="INBOX", help="The folder that scans arrive in.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder for the results.", show_default=False)],
    bundle: BundleOption = "",
    output_type: OutputTypeOption = None,
    settle: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Take a scan when it has not changed for so long.")
    ] = 10,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there and were not made by just this.")
    ] = False,
    preview: PreviewOption = False,
    quiet: QuietOption = False,
    *,
    options: Options,
) -> None:
    """Segment the scans in a folder, and those that arrive there, until Ctrl-C."""
    refuse_no_bundle(bundle)
    if names_output_file(output) or (output.exists() and not output.is_dir()):
        raise UsageError(f"{output}: expected a folder for the results")
    kind = choose_output_type(output_type, output)
    segmenter = load_segmenter(bundle, options)

    from tomoseg.batch.run import BatchInterruptedError
    from tomoseg.batch.watch import segment_arrivals

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service is stopped like this
    report = None
    with BatchProgress(0, hidden=quiet) as progress:

        def told(case: CaseReport) -> None:
            print_case(case, quiet)
            progress.count(case)

        reports = segment_arrivals(
            segmenter,
            inbox,
            output,
            kind,
            settle_s=settle,
            overwrite=overwrite,
            preview=preview,
            on_round=progress.expect,
            on_case=told,
            on_window=progress.show,
        )
        if not quiet:
            print(f"{inbox}: waiting for scans; results go to {output}; Ctrl-C ends it", flush=True)
        try:
            for report in reports:
                _save(report, output)
        except KeyboardInterrupt as error:  # perhaps while the reports were written
            report = error.report if isinstance(error, BatchInterruptedError) else report
            if report is not None:
                _save(report, output)
            raise


def _save(report: Report, folder: Path) -> None:
    try:
        save_reports(report, folder, latest=MAX_SCANS_ON_PAGE)
    except OutputError as error:  # there may be room again when the next scans come
        print_error(one_line(error))

"""`tomoseg watch`."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from tomoseg.batch.options import OutputOptions
from tomoseg.bundle.options import RunOptions
from tomoseg.cli.arguments import BundleOption, OutputTypeOption, QuietOption
from tomoseg.cli.loading import import_engine
from tomoseg.core.notes import print_error


def watch(
    inbox: Annotated[Path, typer.Argument(metavar="INBOX")],
    output: Annotated[Path, typer.Option("-o", "--output")],
    *,
    bundle: BundleOption = "",
    output_type: OutputTypeOption = None,
    settle: Annotated[float, typer.Option(metavar="SECONDS", min=0)] = 10,
    written: OutputOptions,
    quiet: QuietOption = False,
    options: RunOptions,
) -> None:
    """Segment the scans in a folder, and those that arrive there, until Ctrl-C.

    Args:
        inbox: the folder that scans arrive in.
        output: a folder for the results.
        settle: take a scan when it has not changed for so long.
    """
    import_engine(bundle)

    from tomoseg.batch.watch import watch as watch_folder
    from tomoseg.cli.progress import BatchProgress

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service is stopped like this
    with BatchProgress(quiet, numbered=False) as progress:
        rounds = watch_folder(
            bundle, inbox, output, output_type=output_type, stable_for_s=settle, options=written, run_options=options,
            progress=progress, on_error=print_error,
        )  # fmt: skip
        if not quiet:
            print(f"{inbox}: waiting for scans; results go to {output}; Ctrl-C ends it", flush=True)
        for _ in rounds:
            pass

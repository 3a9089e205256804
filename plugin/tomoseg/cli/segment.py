"""`tomoseg segment`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tomoseg.batch.options import ExecutorOptions, OutputOptions, ScanOptions
from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.registry import describe_all
from tomoseg.cli.arguments import BundleOption, QuietOption, TrustOption
from tomoseg.cli.lazy_import import collector_paused, deferred
from tomoseg.cli.trust import find_trusted
from tomoseg.cli.viewers import list_viewers
from tomoseg.core.errors import OutputError, UsageError, one_line
from tomoseg.core.notes import print_error, print_line, print_note, print_warning
from tomoseg.core.reader_process import start_reading
from tomoseg.data.output_types import names_output_file

# what few bundles use: MONAI imports it at once, and our search for heads SimpleITK;
# ignite imports torch.distributed.optim, which brings sympy
SELDOM_USED = (
    "huggingface_hub", "itk", "jsonschema", "matplotlib", "nrrd", "pandas", "pydicom", "requests", "scipy", "SimpleITK",
    "skimage", "sklearn", "tensorboard", "torch.distributed.optim", "torch.utils.tensorboard",
)  # fmt: skip


def segment(
    inputs: Annotated[list[str], typer.Argument(metavar="SCAN...")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE|FOLDER")],
    *,
    bundle: BundleOption = "",
    trust: TrustOption = False,
    scans: ScanOptions,
    written: OutputOptions,
    statistics: Annotated[bool, typer.Option("--statistics")] = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    strict: Annotated[bool, typer.Option("--strict")] = False,
    quiet: QuietOption = False,
    executor: ExecutorOptions,
    options: RunOptions,
) -> None:
    """Segment CT or MRI scans and write label maps in each scan's own grid.

    Args:
        inputs: scans: files, DICOM folders, folders of them, or patterns.
        output: file name (.nii.gz) for one scan, else a folder.
        bundle: a registered name, its beginning, or a folder written as ./name.
        statistics: write statistics.csv for a single output file, too.
        report: file of the report; OUT/report.json if OUT is a folder.
        strict: exit with 1 if a result has a warning.

    Examples:
        tomoseg segment scan.nii.gz -o seg.nii.gz -b hippocampus
        tomoseg segment scans/ -o results/ -b hippocampus --preview
    """
    import_engine(bundle, trust)

    from tomoseg.batch.run import BatchInterruptedError
    from tomoseg.batch.segment import ReportsError, segment_batch
    from tomoseg.cli.progress import BatchProgress, print_summary

    page = None if names_output_file(output) else output / "report.html"
    try:
        with BatchProgress(quiet) as progress:
            result = segment_batch(
                bundle, inputs, output, **vars(scans), options=replace(written, measure=False), report=report,
                statistics=statistics, run_options=options, executor=executor, progress=progress,
            )  # fmt: skip
        unsaved = False
    except ReportsError as error:  # the label maps that could be written are good
        print_error(one_line(error))
        result, page, unsaved = error.report, None, True
    except BatchInterruptedError as error:
        if isinstance(error.__cause__, OutputError):
            print_error(one_line(error.__cause__))
        raise
    if not quiet and len(result.cases) > 1:
        print_summary(result, page)
    if not quiet and len(result.cases) == 1 and (output_file := result.cases[0].output):
        for command in list_viewers(Path(result.cases[0].input), Path(output_file)):
            print_line(f"open it with: {command}")
    if not quiet and result.hardware.get("advice"):
        print_note(result.hardware["advice"])
    doubtful = [] if written.min_dice is None else result.doubtful(written.min_dice)
    for case, row in doubtful:
        print_warning(f"{case.input}: {row.name}: expected Dice {row.expected_dice:.2f}, below --min-dice")
    if result.failed or unsaved or doubtful or (strict and any(case.warnings for case in result.cases)):
        raise typer.Exit(1)


def import_engine(bundle: str, trust: bool) -> None:
    """Import what segments scans, torch and MONAI among it, which takes 1 to 2 s; if there is a bundle that may run.

    Args:
        bundle: name or folder.
        trust: let it run without asking.

    Raises:
        UsageError: no bundle was given; with the names to choose from.
        BundleError: there is no such bundle.
    """
    if not bundle:
        raise UsageError(f"expected a bundle with -b. Choose one of: {describe_all()}")
    find_trusted(bundle, trust)
    start_reading("tomoseg.data.read")
    with collector_paused():
        import torch  # noqa: F401 - its own imports are not deferred

        with deferred(*SELDOM_USED):
            import tomoseg.batch.segment
            import tomoseg.batch.watch  # noqa: F401 - with its own imports

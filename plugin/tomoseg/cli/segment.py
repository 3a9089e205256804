"""`tomoseg segment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tomoseg.batch.cases import plan_cases
from tomoseg.bundle.options import Options
from tomoseg.bundle.registry import find_bundle
from tomoseg.cli.arguments import BundleOption, OutputTypeOption, PreviewOption, QuietOption, with_options
from tomoseg.cli.loading import import_engine, load_segmenter, refuse_no_bundle
from tomoseg.cli.outcome import print_case, print_summary, save_reports
from tomoseg.cli.progress import BatchProgress
from tomoseg.core.errors import OutputError, UsageError, one_line
from tomoseg.core.notes import print_error, print_note
from tomoseg.data.formats import names_output_file
from tomoseg.report.records import CaseReport


@with_options
def segment(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Scans: files, DICOM folders, folders of them, or globs.")
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="A file name (.nii.gz) for one scan, else a folder.", show_default=False),
    ],
    bundle: BundleOption = "",
    output_type: OutputTypeOption = None,
    series: Annotated[
        str | None, typer.Option(metavar="UID", help="Only the DICOM series with this SeriesInstanceUID.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace label maps that are there already.")] = False,
    preview: PreviewOption = False,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Write statistics.csv for a single output file, too.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Where the report goes; OUT/report.json if OUT is a folder.", show_default=False)
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a result comes with a warning.")] = False,
    engine: Annotated[str, typer.Option(metavar="local|ray", help="Run here, or on Ray's workers.")] = "local",
    jobs: Annotated[
        int | None,
        typer.Option(metavar="N", help="Ray's workers; by default one a GPU, else one a machine.", show_default=False),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="auto|HOST:PORT", help="A Ray cluster; without it, Ray runs on this machine.", show_default=False
        ),
    ] = None,
    quiet: QuietOption = False,
    *,
    options: Options,
) -> None:
    """Segment CT or MRI scans and write label maps in each scan's own grid."""
    refuse_no_bundle(bundle)
    chosen = find_bundle(bundle)  # before a folder is searched
    if engine not in ("local", "ray"):
        raise UsageError(f"engine: expected local or ray, got {engine!r}")
    for name, value in (("jobs", jobs), ("ray-address", ray_address)):
        if value is not None and engine != "ray":
            raise UsageError(f"{name}: is for Ray; add --engine ray")
    is_file = names_output_file(output)
    if not is_file and output.exists() and not output.is_dir():
        raise UsageError(f"{output}: expected a folder or a name that ends in .nii.gz, got another file")
    cases = plan_cases(inputs, output, output_type, series, chosen.input_channels)
    segmenter = load_segmenter(bundle, options) if engine == "local" else None
    import_engine()

    from tomoseg.batch.local import LocalExecutor
    from tomoseg.batch.output import OutputOptions
    from tomoseg.batch.run import BatchInterruptedError, Executor, run_batch

    interruption = None
    try:
        with BatchProgress(len(cases), hidden=quiet) as progress:

            def told(case: CaseReport) -> None:
                progress.count(case)
                print_case(case, quiet, progress.place)

            written = OutputOptions(overwrite, preview, measure=statistics or report is not None or not is_file)
            executor: Executor
            if segmenter is not None:
                executor = LocalExecutor(segmenter, written, progress.show)
            else:
                from tomoseg.batch.ray.executor import RayExecutor

                executor = RayExecutor(chosen, options, written, address=ray_address, jobs=jobs, on_note=print_note)
            result = run_batch(cases, executor, told)
    except BatchInterruptedError as error:
        result, interruption = error.report, error
    unsaved = None
    try:
        if not is_file:
            save_reports(result, output, report)
        else:
            if report is not None:
                result.save(report)
            if statistics:
                result.save_statistics(output.parent / "statistics.csv")
    except OutputError as error:  # the label maps that could be written are good
        unsaved = error
        print_error(one_line(error))
    if interruption is not None:
        raise interruption
    if not quiet and len(result.cases) > 1:
        print_summary(result, None if is_file or unsaved else output / "report.html")
    if result.failed or unsaved or (strict and any(case.warnings for case in result.cases)):
        raise typer.Exit(1)

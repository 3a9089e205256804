"""The command line: `tomoseg segment`, `check`, `info`, `bundles`, `doctor`.

Exit status: 0 all done, 1 some case failed (the others are done and written), 2 wrong usage.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.exceptions import TyperException

import tomoseg
from tomoseg.bundle import Bundle
from tomoseg.cases import plan_cases
from tomoseg.deferral import collector_paused, deferred
from tomoseg.errors import BundleError, TomosegError, UsageError, one_line
from tomoseg.options import CLEANERS, Options
from tomoseg.page import write_page
from tomoseg.progress import BatchProgress
from tomoseg.registry import describe_all, find_bundle, registered_names
from tomoseg.report import CaseReport, Report
from tomoseg.volumes import names_output_file

app = typer.Typer(
    help="3D segmentation of CT and MRI with MONAI bundles.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# what MONAI imports at once and few bundles use; torch.distributed.optim is ignite's wish, and brings sympy
SELDOM_USED = (
    "itk", "matplotlib", "nrrd", "pandas", "pydicom", "scipy", "skimage", "sklearn", "torch.distributed.optim",
)  # fmt: skip
WIDE = 1000  # columns
STATUSES = {"done": "done", "skipped": "done by an earlier run", "failed": "failed"}
INTERRUPTED = 130  # what typer makes of Ctrl-C
BundleOption = Annotated[
    str,
    typer.Option("-b", "--bundle", metavar="BUNDLE", help="A registered name, its beginning, or a bundle's folder."),
]


def main() -> None:
    """Run the command line; whatever a user can mend ends in one line on standard error."""
    try:
        status = app(standalone_mode=False)
        if status == INTERRUPTED:
            _complain("interrupted; the scans that were finished are written")
        sys.exit(status)
    except TyperException as error:
        _complain(f"{error.format_message()} See `tomoseg --help` and `tomoseg COMMAND --help`.")
        sys.exit(2)
    except TomosegError as error:
        _complain(one_line(error, 2000))
        sys.exit(2)
    except BrokenPipeError:  # `tomoseg info | head`
        sys.stderr.close()
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(f"tomoseg {tomoseg.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def segment(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Scans: files, DICOM folders, folders of them, or globs.")
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="A file name (.nii.gz) for one scan, else a folder.", show_default=False),
    ],
    bundle: BundleOption = "",
    output_type: Annotated[
        str | None,
        typer.Option(
            metavar="nifti|nrrd|dicom-seg|dicom-labelmap|rtstruct",
            help="What the labels are written as; by default what the output's name ends in, and nifti for a folder.",
        ),
    ] = None,
    series: Annotated[
        str | None, typer.Option(metavar="UID", help="Only the DICOM series with this SeriesInstanceUID.")
    ] = None,
    clean: Annotated[
        list[str] | None,
        typer.Option(
            metavar="|".join(CLEANERS),
            help="Clean each scan first; may be given several times, done in that order.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]", help="Where the network runs.")] = "auto",
    backend: Annotated[str, typer.Option(metavar="auto|torch|openvino", help="What runs the network.")] = "auto",
    precision: Annotated[
        str, typer.Option(metavar="auto|fp32|bf16|fp16", help="What the network computes in; auto is the bundle's own.")
    ] = "auto",
    overlap: Annotated[
        float | None, typer.Option(help="Overlap of neighbouring windows, 0 to below 1; the bundle's own if not given.")
    ] = None,
    tta: Annotated[bool, typer.Option("--tta", help="Average mirrored predictions; slower, a little better.")] = False,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="Weights in place of the bundle's; give it several times to average.", show_default=False),
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Limit for RAM, and for the GPU's memory, e.g. 6GB.")
    ] = None,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Write a map of the entropy beside each label map.")
    ] = False,
    skip_empty: Annotated[
        bool | None,
        typer.Option("--skip-empty/--no-skip-empty", help="Run windows of one value, such as air, only once."),
    ] = None,
    compile_network: Annotated[
        bool, typer.Option("--compile", help="Let torch compile the network first; pays off for many scans.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace label maps that are there already.")] = False,
    preview: Annotated[bool, typer.Option("--preview", help="Write a picture (PNG) beside each label map.")] = False,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Write statistics.csv for a single output file, too.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Where the report goes; OUT/report.json if OUT is a folder.", show_default=False)
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False,
) -> None:
    """Segment CT or MRI scans and write label maps in each scan's own grid."""
    if not bundle:
        raise UsageError(f"expected a bundle with -b; choose one of: {describe_all()}")
    chosen = find_bundle(bundle)
    is_file = names_output_file(output)
    if not is_file and output.exists() and not output.is_dir():
        raise UsageError(f"{output}: expected a folder or a name that ends in .nii.gz, got another file")
    cases = plan_cases(inputs, output, output_type, series)
    options = Options(
        device=device,
        backend=backend,
        precision=precision,
        overlap=overlap,
        tta=tta,
        max_memory=max_memory,
        uncertainty=uncertainty,
        skip_empty=skip_empty,
        checkpoints=tuple(map(str, checkpoint or ())),
        compile=compile_network,
        clean=tuple(clean or ()),
    )

    with collector_paused():
        import torch  # noqa: F401 - what it needs is not deferred

        with deferred(*SELDOM_USED):
            from tomoseg.batch import (
                BatchInterruptedError,
                segment_cases,
            )  # torch and monai, 1 to 2 s: only once they are needed
            from tomoseg.segmenter import Segmenter

    segmenter = Segmenter(chosen, options)
    interruption = None
    try:
        with BatchProgress(len(cases), hidden=quiet) as progress:

            def told(case: CaseReport) -> None:
                _print_case(case, quiet)
                progress.count(case)

            result = segment_cases(
                segmenter,
                cases,
                overwrite=overwrite,
                preview=preview,
                measure=statistics or report is not None or not is_file,
                on_case=told,
                on_window=progress.show,
            )
    except BatchInterruptedError as error:
        result, interruption = error.report, error
    folder = output.parent if is_file else output
    if report is not None or not is_file:
        result.save(report or folder / "report.json")
    if statistics or not is_file:
        result.save_statistics(folder / "statistics.csv")
    if not is_file:
        write_page(result, folder / "report.html")
    if interruption is not None:
        raise interruption
    if not quiet and len(result.cases) > 1:
        _print_summary(result, None if is_file else folder / "report.html")
    if result.failed:
        raise typer.Exit(1)


@app.command()
def check(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Scans, folders with scans, or labelled datasets.")
    ],
    voxels: Annotated[bool, typer.Option("--voxels", help="Read the voxels, too, not only the headers.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what scans and labelled datasets hold, and what is wrong with them."""
    from tomoseg.inspection import inspect_paths, list_problems, list_remarks, tabulate

    with Console(stderr=True).status("looking for scans") as status:  # nothing is shown where nobody looks
        survey = inspect_paths(paths, voxels=voxels, on_scan=lambda path: status.update(escape(str(path))))
    if as_json:
        print(json.dumps(survey.as_json(), indent=2, ensure_ascii=False))
    else:
        console = _console()
        for content in tabulate(survey):
            table = Table(title=escape(content.title), title_justify="left")
            for name in content.columns:
                table.add_column(name, overflow="fold")  # a path or a UID is of use only whole
            for row in content.rows:
                table.add_row(*map(escape, row))
            console.print(table)
        for remark in list_remarks(survey):
            print(f"note: {remark}")
        for problem in list_problems(survey):
            print(f"problem: {problem}")
    if not survey.ok:
        raise typer.Exit(1)


@app.command()
def info(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A name or a folder; all bundles if left out.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what a bundle segments, in what kind of scan, and where it lies."""
    described = [_describe(find_bundle(name)) for name in ([bundle] if bundle else registered_names())]
    if as_json:
        print(json.dumps(described[0] if bundle else described, indent=2, ensure_ascii=False))
        return
    console = Console()
    for entry in described:
        table = Table("", "", title=escape(entry["name"]), show_header=False, title_justify="left")
        for key, value in entry.items():
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            table.add_row(key, escape(shown))
        console.print(table)


@app.command()
def bundles() -> None:
    """List the bundles that are installed."""
    table = Table("name", "version", "modality", "labels")
    for name in registered_names():
        try:
            bundle = find_bundle(name)
            row = (name, bundle.version, bundle.modality, ", ".join(bundle.labels.values()))
        except BundleError as error:
            row = (name, "—", "—", f"unusable: {one_line(error)}")
        table.add_row(*map(escape, row))
    Console().print(table)


@app.command()
def doctor() -> None:
    """Check that this installation can work, and say what is missing."""
    from tomoseg.doctor import examine

    table = Table("", "what", "found")
    findings = examine()
    for finding in findings:
        table.add_row("[green]ok[/]" if finding.good else "[red]bad[/]", escape(finding.what), escape(finding.found))
    Console().print(table)
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)


def _describe(bundle: Bundle) -> dict[str, Any]:
    return {
        "name": bundle.name,
        "version": bundle.version,
        "modality": bundle.modality,
        "labels": {str(value): name for value, name in bundle.labels.items()},
        "description": bundle.description,
        "folder": str(bundle.root),
        "licence": str(bundle.metadata.get("copyright", "")),
    }


def _print_case(case: CaseReport, quiet: bool) -> None:
    if case.status == "failed":
        _complain(case.reason)
        return
    if case.status == "skipped":
        if not quiet:
            print(f"{case.input} -> {case.output}: done by an earlier run", flush=True)
        return
    for remark in case.remarks:
        print(f"tomoseg: note: {case.input}: {remark}", file=sys.stderr, flush=True)
    if not quiet:
        volumes = ", ".join(f"{row.name} {row.volume_ml:.2f} mL" for row in case.labels)
        skipped = f", {case.skipped_windows} of {case.windows} windows skipped" if case.skipped_windows else ""
        print(f"{case.input} -> {case.output}: {volumes} ({sum(case.seconds.values()):.1f} s{skipped})", flush=True)


def _print_summary(report: Report, page: Path | None) -> None:
    """Print how many cases ended how, those that failed once more, and where to read on."""
    counts = Counter[str](case.status for case in report.cases)
    if report.failed:
        table = Table("failed", "why", title_justify="left")
        for case in report.failed:
            table.add_row(escape(case.input), escape(case.reason.removeprefix(f"{case.input}: ")))
        _console().print(table)
    told = ", ".join(f"{counts[status]} {name}" for status, name in STATUSES.items() if counts[status])
    print(f"{told} of {len(report.cases)}{f'; see {page}' if page else ''}", flush=True)


def _console() -> Console:
    """Return standard output; in a file or a pipe, a line is a line."""
    return Console(width=None if sys.stdout.isatty() else WIDE)


def _complain(message: str) -> None:
    print(f"tomoseg: error: {message}", file=sys.stderr, flush=True)

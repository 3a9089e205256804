"""`tomoseg watch`."""

import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from tomoseg.batch.archive.options import ArchiveOptions
from tomoseg.batch.archive.rules import Rule, choose_rule, read_rules
from tomoseg.batch.options import OutputOptions, ScanOptions
from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.registry import describe_all, find_bundle
from tomoseg.cli.arguments import BundleOption, JsonOption, QuietOption, TrustOption
from tomoseg.cli.segment import import_engine
from tomoseg.core.errors import UsageError
from tomoseg.core.json_files import format_json
from tomoseg.core.notes import log_as_json, print_error, print_json, print_line
from tomoseg.data.output_types import OutputTypeName

FOLDER_SETTLE_S = 10.0


def watch(
    inbox: Annotated[str | None, typer.Argument(metavar="FOLDER|URL")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FOLDER")] = None,
    *,
    bundle: BundleOption = "",
    trust: TrustOption = False,
    scans: ScanOptions,
    settle: Annotated[float | None, typer.Option(metavar="SECONDS", min=0)] = None,
    rules: Annotated[Path | None, typer.Option(metavar="YAML")] = None,
    archive: ArchiveOptions,
    dry_run: Annotated[bool, typer.Option("--dry-run")] = False,
    status: Annotated[Path | None, typer.Option(metavar="STATE")] = None,
    json: JsonOption = False,
    retry: Annotated[bool, typer.Option("--retry")] = False,
    log_json: Annotated[bool, typer.Option("--log-json")] = False,
    written: OutputOptions,
    quiet: QuietOption = False,
    options: RunOptions,
) -> None:
    """Segment the scans of a folder or an archive, and new ones as they arrive, until Ctrl-C.

    Args:
        inbox: folder in which scans arrive, or address of a DICOMweb archive, which gets the results.
        output: folder of the results; of an archive, of the state.
        bundle: a registered name, its beginning, or a folder written as ./name.
        settle: segment a scan when it has not changed for this time, in seconds; by default 10, and 60 in an archive.
        rules: which bundle segments which series of an archive.
        dry_run: list what each series of an archive would get, and stop.
        status: print what became of the series of an archive, and stop.
        retry: with --status, try failed series again.
        log_json: print messages as JSON, one object a line.

    Examples:
        tomoseg watch inbox/ -o results/ -b hippocampus
        tomoseg watch https://archive/dicom-web -o state/ --rules rules.yaml
    """
    if log_json:
        log_as_json()
    if status is not None:
        _print_status(status, json, retry)
        return
    if inbox is None or (output is None and not dry_run):
        raise UsageError("expected a folder or the address of an archive, and -o. See tomoseg watch --help")
    folder = output or Path()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service is stopped like this
    if inbox.startswith(("http://", "https://")):
        if (scans, written) != (ScanOptions(scans.output_type), OutputOptions()):
            raise UsageError(f"{inbox}: an archive takes no other option of scans and outputs than --output-type")
        chosen = _choose_rules(bundle, rules, scans.output_type)
        if dry_run:
            _print_plan(inbox, chosen, archive)
            return
        for name in {rule.bundle for rule in chosen}:
            import_engine(name, trust)

        from tomoseg.batch.archive.watch import SETTLE_S, watch_archive

        show: Callable[[str], None] = (lambda line: None) if quiet else print_line
        seconds = SETTLE_S if settle is None else settle
        show(f"{inbox}: waiting for series; see {folder / 'status.html'}; Ctrl-C ends it")
        for _ in watch_archive(
            inbox, folder, chosen, settle_s=seconds, options=archive, run_options=options, on_line=show
        ):
            pass
        return
    if rules is not None or dry_run or archive != ArchiveOptions():
        raise UsageError(f"{inbox}: --rules, --dry-run and limits are for an archive. Give its address, http://...")
    import_engine(bundle, trust)

    from tomoseg.batch.watch import watch as watch_folder
    from tomoseg.cli.progress import BatchProgress

    with BatchProgress(quiet, numbered=False) as progress:
        rounds = watch_folder(
            bundle, inbox, folder, **vars(scans), stable_for_s=FOLDER_SETTLE_S if settle is None else settle,
            options=written, run_options=options, progress=progress, on_error=print_error,
        )  # fmt: skip
        if not quiet:
            print_line(f"{inbox}: waiting for scans; results go to {folder}; Ctrl-C ends it")
        for _ in rounds:
            pass


def _choose_rules(bundle: str, rules: Path | None, output_type: OutputTypeName | None) -> list[Rule]:
    """Return the rules of the file, or the one of a bundle: all series of its modality."""
    if rules is not None:
        if bundle or output_type:
            raise UsageError("--rules: names bundles and output types itself. Leave out -b and --output-type")
        return read_rules(rules)
    if not bundle:
        raise UsageError(f"expected a bundle with -b, or --rules. Choose one of: {describe_all()}")
    return [Rule(bundle, find_bundle(bundle).modality, output_types=(output_type or "dicom-sr",))]


def _print_plan(url: str, rules: list[Rule], options: ArchiveOptions) -> None:
    from tomoseg.batch.archive.client import Archive

    for series in Archive(url, options.ca_file).search(options.since):
        rule = choose_rule(rules, series)
        known = f"{series.modality or 'no modality'}, {series.images} images, {series.description or 'no description'}"
        fate = "not touched" if rule is None else f"{rule.bundle} -> {', '.join(rule.output_types)}"
        print_line(f"{series.uid} ({known}): {fate}")


def _print_status(state: Path, as_json: bool, retry: bool) -> None:
    from tomoseg.batch.archive.queue import open_state
    from tomoseg.batch.archive.status import STEPS, describe_status

    with closing(open_state(state)) as queue:
        again = queue.retry() if retry else 0
        status = describe_status(queue)
    if as_json:
        print_json(format_json(status))
        return
    if retry:
        print_line(f"{again} series will be tried again")
    for step, count in status["counts"].items():
        print_line(f"{STEPS[step]}: {count}")
    for one in status["series"]:
        print_line(f"{one['uid']}: {STEPS[one['step']]}: {one['reason']}")

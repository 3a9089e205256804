"""Segment scans as they arrive: the function behind `tomoseg watch`."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from tomoseg.batch.cases import Case, plan_case, write_key_table
from tomoseg.batch.local import LocalExecutor
from tomoseg.batch.options import OutputOptions
from tomoseg.batch.progress import Progress
from tomoseg.batch.run import BatchInterruptedError, run_batch
from tomoseg.batch.watch_folder import WatchFolder
from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.registry import find_bundle
from tomoseg.core.errors import OutputError, UsageError, one_line
from tomoseg.core.files import real_path
from tomoseg.core.notes import collect_notes
from tomoseg.core.pseudonyms import load_key
from tomoseg.core.reading import read_with
from tomoseg.data.discovery import Scan
from tomoseg.data.output_types import OutputType, choose_output_type, names_output_file
from tomoseg.inference.segmenter import Segmenter
from tomoseg.report.html.document import save_reports
from tomoseg.report.records import CaseReport, Report

SETTLE_S = 10.0
LOOK_EVERY_S = 1.0  # between two looks at the folder, or five times as long as a look took
MAX_CASES_ON_PAGE = 300  # a browser need not load those of last year
SCANS_PER_ROUND = 16  # scans; then the reports are written, and it is looked for new ones


def watch(
    segmenter: Segmenter | str | os.PathLike[str],
    inbox: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    output_type: str | None = None,
    series: str | None = None,
    phase: str | None = None,
    all_files: bool = False,
    stable_for_s: float = SETTLE_S,
    options: OutputOptions | None = None,
    run_options: RunOptions | None = None,
    progress: Progress | None = None,
    on_error: Callable[[str], None] | None = None,
) -> Iterator[Report]:
    """Segment every scan that is in a folder or arrives there, and yield the report of all of them after each round.

    It goes on until it is interrupted. What this or an earlier run has done is known by its manifest; a scan
    that changes after it was segmented is segmented again. After each round, and after Ctrl-C, report.json,
    statistics.csv and report.html are written.

    Args:
        segmenter: the loaded bundle; or the name or folder of a bundle, which is loaded with the run options.
        inbox: where scans arrive; its tree is kept.
        output: a folder for the results.
        output_type: format of the label maps.
        series: which DICOM series are taken, as for `segment_batch`.
        phase: "KEYWORD=VALUE" of the images to take where a DICOM series has several at each place.
        all_files: segment label maps that lie beside their scans, too.
        stable_for_s: a scan is taken when it has not changed for so many seconds.
        options: which files are written; with `overwrite`, also in place of files that no earlier run made, or one
            with another bundle or other options. Results of an earlier state of a scan are always replaced.
        run_options: how the bundle is run, if it is not loaded yet.
        progress: follows the scans.
        on_error: called with the reason if the reports cannot be written; it goes on.

    Returns:
        An iterator that waits for scans, and yields the report after each round of them.

    Raises:
        UsageError: the inbox is no folder, or would take the results for scans.
        BatchInterruptedError: Ctrl-C while scans were segmented; it has the report of all that were done.

    Example:
        >>> import tomoseg
        >>> rounds = tomoseg.watch("hippocampus", "scans", "results", stable_for_s=0)
        >>> [case.status for case in next(rounds).cases]
        ['done']
    """
    folder, results = Path(inbox), Path(output)
    if names_output_file(results) or (results.exists() and not results.is_dir()):
        raise UsageError(f"{results}: expected a folder for the results")
    chosen = choose_output_type(output_type, results)
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder that scans arrive in")
    if real_path(results) in (real_path(folder), *real_path(folder).parents):
        raise UsageError(f"{results}: results would arrive among the scans of {folder}. Choose another folder with -o")
    if isinstance(segmenter, str | os.PathLike):
        segmenter = Segmenter(find_bundle(segmenter), run_options)
    executor = LocalExecutor(segmenter, replace(options or OutputOptions(), follow=True))
    arrivals = WatchFolder(folder, results, stable_for_s, series, phase, segmenter.bundle.modality, all_files)
    return _segment_arrivals(executor, arrivals, results, chosen, progress or Progress(), on_error)


def _segment_arrivals(
    executor: LocalExecutor,
    arrivals: WatchFolder,
    output: Path,
    output_type: OutputType,
    progress: Progress,
    on_error: Callable[[str], None] | None,
) -> Iterator[Report]:
    waiting = deque[Scan]()
    owners: dict[Path, Case] = {}
    known: list[Case] = []
    key = load_key() if executor.output.anonymous else None
    noted: set[str] = set()
    done: dict[tuple[str, str | None], CaseReport] = {}
    started = None
    while True:
        look = time.monotonic()
        with collect_notes() as notes, read_with(executor.options.reading):
            waiting.extend(arrivals.poll(look))
        for note in notes:
            if note not in noted and key is None:  # notes name files
                progress.on_note(note)
                noted.add(note)
        if not waiting:
            time.sleep(max(LOOK_EVERY_S, 5 * (time.monotonic() - look)))
            continue
        scans = [waiting.popleft() for _ in range(min(SCANS_PER_ROUND, len(waiting)))]
        cases = [plan_case(scan, arrivals.folder, output, output_type, arrivals.phase, key) for scan in scans]
        clashing = [case for case in cases if owners.setdefault(case.output, case) != case]
        clashes = [case.hide(_clash(case, owners[case.output])) for case in clashing]
        known += cases
        if executor.output.key_table is not None:
            write_key_table(Path(executor.output.key_table), list(dict.fromkeys(known)))
        progress.on_start(len(clashes))
        interruption = None
        try:
            report = run_batch([case for case in cases if case not in clashing], executor, progress)
        except BatchInterruptedError as error:
            report, interruption = error.report, error
        for record in clashes:
            progress.on_case(record)
        for record in (*report.cases, *clashes):
            done.pop((record.input, record.series), None)  # the latest come last
            done[record.input, record.series] = record
        started = started or report.started
        report = replace(report, started=started, cases=tuple(done.values()))
        try:
            _save(report, output, on_error)
        except KeyboardInterrupt:
            _save(report, output, on_error)
            raise
        if interruption is not None:
            raise BatchInterruptedError(report) from interruption
        yield report


def _save(report: Report, folder: Path, on_error: Callable[[str], None] | None) -> None:
    try:
        save_reports(report, folder, latest=MAX_CASES_ON_PAGE)
    except OutputError as error:  # there may be room again when the next scans come
        if on_error is not None:
            on_error(one_line(error))


def _clash(case: Case, other: Case) -> CaseReport:
    reason = f"{case.input}: would be written to {case.output}, as {other.shown} is. Rename one"
    return CaseReport.failure(case.input, reason, case.series)

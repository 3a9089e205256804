"""Scans are segmented as they arrive."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from tomoseg.batch.cases import Case, plan_case
from tomoseg.batch.inbox import Inbox
from tomoseg.batch.local import LocalExecutor, OnWindow
from tomoseg.batch.output import OutputOptions
from tomoseg.batch.run import BatchInterruptedError, run_batch
from tomoseg.core.errors import UsageError
from tomoseg.data.discovery import Scan
from tomoseg.data.formats import OutputType
from tomoseg.inference.segmenter import Segmenter
from tomoseg.report.records import CaseReport, Report

SETTLE_S = 10.0
LOOK_EVERY_S = 1.0  # between two looks at the folder, or five times as long as a look took
SCANS_PER_ROUND = 16  # then the reports are written, and it is looked for new ones


def segment_arrivals(
    segmenter: Segmenter,
    inbox: Path,
    output: Path,
    kind: OutputType,
    *,
    settle_s: float = SETTLE_S,
    overwrite: bool = False,
    preview: bool = False,
    on_round: Callable[[int], None] | None = None,
    on_case: Callable[[CaseReport], None] | None = None,
    on_window: OnWindow | None = None,
) -> Iterator[Report]:
    """Segment every scan that is in a folder or arrives there, and yield the report of all of them after each round.

    It goes on until it is interrupted. What was done before, by this or an earlier run, is known by its sidecar; a scan
    that changes after it was segmented is segmented again.

    Args:
        segmenter: the loaded bundle.
        inbox: where scans arrive; its tree is kept.
        output: a folder for the results.
        kind: their format.
        settle_s: a scan is taken when it has not changed for so many seconds.
        overwrite: replace files that no earlier run made, or another bundle or other options.
        preview: write a PNG beside each label map.
        on_round: called with the number of scans that are taken next.
        on_case: called after each scan.
        on_window: called with a scan's path, the number of its windows that are done, and of all of them.

    Raises:
        UsageError: the inbox is no folder, or would take the results for scans.
        BatchInterruptedError: Ctrl-C while scans were segmented; it has the report of all that were done.
    """
    if not inbox.is_dir():
        raise UsageError(f"{inbox}: expected a folder that scans arrive in")
    if output.resolve() in (inbox.resolve(), *inbox.resolve().parents):
        raise UsageError(f"{output}: results would arrive among the scans of {inbox}; choose another folder with -o")
    options = OutputOptions(overwrite=overwrite, preview=preview, follow=True)
    executor = LocalExecutor(segmenter, options, on_window)
    arrivals, waiting = Inbox(inbox, output, settle_s), deque[Scan]()
    owners: dict[Path, Path] = {}
    done: dict[tuple[str, str | None], CaseReport] = {}
    started = None
    while True:
        look = time.monotonic()
        waiting.extend(arrivals.take(look))
        if not waiting:
            time.sleep(max(LOOK_EVERY_S, 5 * (time.monotonic() - look)))
            continue
        scans = [waiting.popleft() for _ in range(min(SCANS_PER_ROUND, len(waiting)))]
        cases = [plan_case(scan, inbox, output, kind) for scan in scans]
        clashing = [case for case in cases if owners.setdefault(case.output, case.input) != case.input]
        if on_round is not None:
            on_round(len(cases))
        interruption = None
        try:
            report = run_batch([case for case in cases if case not in clashing], executor, on_case)
        except BatchInterruptedError as error:
            report, interruption = error.report, error
        for case in clashing:
            report.cases.append(_clash(case, owners[case.output]))
            if on_case is not None:
                on_case(report.cases[-1])
        for record in report.cases:
            done.pop((record.input, record.series), None)  # the latest come last
            done[record.input, record.series] = record
        started = started or report.started
        report = replace(report, started=started, cases=list(done.values()))
        if interruption is not None:
            raise BatchInterruptedError(report) from interruption
        yield report


def _clash(case: Case, other: Path) -> CaseReport:
    reason = f"{case.input}: would be written to {case.output}, as {other} is; rename one"
    return CaseReport(input=str(case.input), output=None, status="failed", reason=reason)

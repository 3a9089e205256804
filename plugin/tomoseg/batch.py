"""Many scans: while one is at the network, the next is read and the last is written; one that fails stops nobody."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import torch

from tomoseg.bundle import Bundle
from tomoseg.cases import Case, plan_cases, refuse_entropy_clashes
from tomoseg.configuration import root_cause
from tomoseg.delivery import Delivery
from tomoseg.engine import is_out_of_memory
from tomoseg.errors import MemoryLimitError, MissingPackageError, OutputError, TomosegError, one_line
from tomoseg.files import remove_stale, sha256
from tomoseg.interruption import PostponedInterrupt
from tomoseg.options import Options
from tomoseg.report import CaseReport, Report, describe_hardware, utc_now
from tomoseg.segmentation import Segmentation
from tomoseg.segmenter import Prepared, Segmenter
from tomoseg.sidecar import hash_run, hash_scan
from tomoseg.volumes import VOLUME_SUFFIXES, has_suffix

# a scan's path, the number of its windows that are done, and of all of them
OnWindow = Callable[[Path, int, int], None]
_Future: TypeAlias = "Future[Any]"
CHECK_EVERY_S = 0.1  # whether Ctrl-C was pressed, while a scan is read or written


@dataclass(frozen=True)
class ShortOfMemory:
    """A scan for which memory ran out; with nothing else beside it, it may fit.

    Args:
        report: what is told of it if it does not.
    """

    report: CaseReport


class BatchInterruptedError(KeyboardInterrupt):
    """Ctrl-C, with the report of what was done until then."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report


def segment_batch(
    segmenter: Segmenter,
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    output_type: str | None = None,
    series: str | None = None,
    overwrite: bool = False,
    preview: bool = False,
    measure: bool = True,
    on_case: Callable[[CaseReport], None] | None = None,
    on_window: OnWindow | None = None,
) -> Report:
    """Segment every scan and write its label map; a scan that fails is recorded and the rest go on.

    Args:
        segmenter: the loaded bundle.
        inputs: files, folders and glob patterns, as for `plan_cases`.
        output: a file name for one scan, else a folder.
        output_type: "nifti", "nrrd", "dicom-seg", "dicom-labelmap" or "rtstruct"; by default what the output ends
            in, and NIfTI for a folder.
        series: only DICOM series of this SeriesInstanceUID.
        overwrite: replace label maps that are there already; without it they are kept and the scan counts as failed.
        preview: write a PNG beside each label map.
        measure: tell intensity and place of each label, too, and not only its volume.
        on_case: called after each scan.
        on_window: called with a scan's path, the number of its windows that are done, and of all of them.

    Raises:
        UsageError: as for `plan_cases`.
        MissingPackageError: what the output type needs is not installed.
    """
    cases = plan_cases(inputs, output, output_type, series, segmenter.bundle.input_channels)
    return segment_cases(
        segmenter,
        cases,
        overwrite=overwrite,
        preview=preview,
        measure=measure,
        on_case=on_case,
        on_window=on_window,
    )


def segment_cases(
    segmenter: Segmenter,
    cases: Sequence[Case],
    *,
    overwrite: bool = False,
    preview: bool = False,
    measure: bool = True,
    follow: bool = False,
    on_case: Callable[[CaseReport], None] | None = None,
    on_window: OnWindow | None = None,
) -> Report:
    """Segment scans whose outputs are planned already; otherwise as `segment_batch`.

    Args:
        follow: as for `Delivery`.
    """
    refuse_what_cannot_be(cases, segmenter.options)
    report = start_report(
        segmenter.bundle, segmenter.checkpoint_sha256, segmenter.options, cases, overwrite=overwrite, preview=preview
    )
    report.device, report.backend, report.precision = segmenter.device, segmenter.backend, segmenter.precision
    for folder in {case.output.parent for case in cases}:
        remove_stale(folder)
    run = hash_run(segmenter.bundle, segmenter.checkpoint_sha256, segmenter.options, segmenter.precision)
    delivery = Delivery(
        run, overwrite, preview, measure, segmenter.options.uncertainty, segmenter.bundle.input_channels, follow
    )
    try:
        with PostponedInterrupt() as interrupt:
            return fill_report(report, cases, _run(segmenter, delivery, cases, on_window, interrupt), on_case)
    finally:
        report.backend = segmenter.backend  # known for sure once a network was compiled


def refuse_what_cannot_be(cases: Sequence[Case], options: Options) -> None:
    """Raise MissingPackageError or UsageError if what was asked of a batch cannot be, whatever its scans are."""
    for package in {package for case in cases for package in case.kind.packages}:
        if find_spec(package) is None:
            raise MissingPackageError(package)
    if options.uncertainty:
        refuse_entropy_clashes(cases)


def start_report(
    bundle: Bundle,
    checkpoints: Sequence[str],
    options: Options,
    cases: Sequence[Case],
    *,
    overwrite: bool,
    preview: bool,
) -> Report:
    """Return the report of a batch that is about to start; what its networks run on is for the caller to fill in.

    Args:
        bundle: the bundle.
        checkpoints: SHA-256 of the weights in use.
        options: as the user asked for them.
        cases: the scans.
        overwrite, preview: as for `segment_batch`.
    """
    return Report(
        bundle={
            "name": bundle.name,
            "version": bundle.version,
            "config_sha256": sha256(bundle.inference_config),
            "checkpoint_sha256": " ".join(checkpoints),
        },
        device="",
        backend="",
        precision="",
        options={
            **asdict(options),
            "output_type": sorted({case.kind.name for case in cases}),
            "overwrite": overwrite,
            "preview": preview,
        },
        hardware=describe_hardware(
            [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())], torch.get_num_threads()
        ),
        pending=[str(case.input) for case in cases],
    )


def fill_report(
    report: Report,
    cases: Sequence[Case],
    outcomes: Iterable[tuple[int, CaseReport]],
    on_case: Callable[[CaseReport], None] | None,
) -> Report:
    """Return the report with the outcomes of the cases, in the cases' order.

    Args:
        report: as `start_report` made it.
        cases: all of the batch.
        outcomes: the index of each case and what came of it, in any order.
        on_case: called after each.

    Raises:
        BatchInterruptedError: Ctrl-C; the report tells what was done until then.
    """
    done: dict[int, CaseReport] = {}
    try:
        for index, record in outcomes:
            done[index] = record
            if on_case is not None:
                on_case(record)
    except KeyboardInterrupt as error:
        report.interrupted = True
        raise BatchInterruptedError(report) from error
    finally:
        report.cases = [done[index] for index in sorted(done)]
        report.pending = [str(case.input) for index, case in enumerate(cases) if index not in done]
        report.finished = utc_now()
    return report


def segment_case(
    segmenter: Segmenter, delivery: Delivery, case: Case, on_window: OnWindow | None = None
) -> CaseReport | ShortOfMemory:
    """Read, segment and write one scan; several threads may, for the segmenter lets one at a time do each stage."""
    outcome = _guarded(case, _prepare, segmenter, delivery, case)
    if isinstance(outcome, tuple):
        outcome = _guarded(case, _predict, segmenter, case, *outcome, on_window)
    if isinstance(outcome, tuple):
        outcome = _guarded(case, delivery.deliver, case, *outcome)
    assert isinstance(outcome, CaseReport | ShortOfMemory)
    return outcome


def _run(
    segmenter: Segmenter,
    delivery: Delivery,
    cases: Sequence[Case],
    on_window: OnWindow | None,
    interrupt: PostponedInterrupt,
) -> Iterator[tuple[int, CaseReport]]:
    """Yield each case's index and outcome; those that ran out of memory beside others are run again alone, last."""

    def watched(scan: Path, done: int, windows: int) -> None:
        interrupt.check()
        if on_window is not None:
            on_window(scan, done, windows)

    apart = segmenter.options.max_memory is None  # what else is in memory would break a limit
    again: list[int] = []
    for index, outcome in enumerate(_overlapped(segmenter, delivery, cases, watched, apart, interrupt)):
        if isinstance(outcome, CaseReport):
            yield index, outcome
        elif apart and len(cases) > 1:
            again.append(index)
        else:
            yield index, outcome.report
    for index in again:
        interrupt.check()
        outcome = segment_case(segmenter, delivery, cases[index], watched)
        yield index, outcome if isinstance(outcome, CaseReport) else outcome.report
    interrupt.check()


def _overlapped(
    segmenter: Segmenter,
    delivery: Delivery,
    cases: Sequence[Case],
    on_window: OnWindow,
    apart: bool,
    interrupt: PostponedInterrupt,
) -> Iterator[CaseReport | ShortOfMemory]:
    """Yield the outcome of each case, in order: while one is at the network, the next is read, the last written."""
    with ThreadPoolExecutor(1, "tomoseg-read") as reader, ThreadPoolExecutor(1, "tomoseg-write") as writer:
        waiting, reading, writing = deque(cases), deque[tuple[Case, _Future]](), deque[_Future]()

        def read_next() -> None:
            if waiting and not reading:
                case = waiting.popleft()
                reading.append((case, reader.submit(_guarded, case, _prepare, segmenter, delivery, case)))

        def outcome_of(future: _Future) -> Any:
            while not wait((future,), CHECK_EVERY_S).done:
                interrupt.check()
            return future.result()

        try:
            read_next()
            while reading:
                interrupt.check()
                case, future = reading.popleft()
                ready = outcome_of(future)
                if apart:
                    read_next()
                if isinstance(ready, tuple):
                    ready = _guarded(case, _predict, segmenter, case, *ready, on_window)
                if isinstance(ready, tuple):
                    writing.append(writer.submit(_guarded, case, delivery.deliver, case, *ready))
                else:
                    writing.append(writer.submit(_as_it_is, ready))
                del ready
                while len(writing) > apart:
                    yield outcome_of(writing.popleft())
                read_next()
            while writing:
                yield outcome_of(writing.popleft())
        except BaseException:
            for _, future in reading:
                future.cancel()
            raise


def _prepare(segmenter: Segmenter, delivery: Delivery, case: Case) -> CaseReport | tuple[Prepared, str]:
    if case.kind.of_series and case.input.is_file() and has_suffix(case.input.name, VOLUME_SUFFIXES):
        raise OutputError(f"{case.input}: expected a DICOM series, for {case.kind.name} refers to one")
    scan = ""
    if case.resumable:
        with suppress(OSError):  # the reader will tell what is wrong with it
            scan = hash_scan((case.input, *case.further), case.kind.name, case.series)
    return delivery.earlier(case, scan) or (segmenter.prepare(case.source, case.series), scan)


def _predict(
    segmenter: Segmenter, case: Case, prepared: Prepared, scan: str, on_window: OnWindow | None
) -> tuple[Segmentation, str]:
    progress = None if on_window is None else partial(on_window, case.input)
    return segmenter.predict(prepared, progress), scan


def _as_it_is(outcome: CaseReport | ShortOfMemory) -> CaseReport | ShortOfMemory:
    return outcome


def _guarded(case: Case, work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what the work returns, or that it failed: the other scans still matter."""
    try:
        return work(*arguments)
    except Exception as error:  # a reason that is known, or an error of ours or of a library
        # a limit that was asked for holds, whatever else is in memory
        short = not isinstance(error, MemoryLimitError) and is_out_of_memory(root_cause(error))
        if isinstance(error, TomosegError):
            reason = one_line(error)
        elif short:
            reason = f"{case.input}: not enough memory for this scan: {one_line(error)}"
        else:
            reason = f"{case.input}: unexpected {type(error).__name__}: {one_line(error)}"
    report = CaseReport(input=str(case.input), output=None, status="failed", reason=reason)
    return ShortOfMemory(report) if short else report

"""Executor of a batch in this process; reading, network and writing of successive scans overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch

from tomoseg.batch.cases import Case
from tomoseg.batch.interrupt import PostponedInterrupt
from tomoseg.batch.manifest import hash_run, hash_scan
from tomoseg.batch.options import OutputOptions
from tomoseg.batch.output import Delivery
from tomoseg.core.errors import MemoryLimitError, OutputError, TomosegError, one_line, root_cause
from tomoseg.core.files import remove_stale
from tomoseg.data.formats import VOLUME_SUFFIXES, has_suffix
from tomoseg.inference.memory import is_out_of_memory
from tomoseg.inference.segmentation import Segmentation
from tomoseg.inference.segmenter import Prepared, Segmenter
from tomoseg.report.environment import RunEnvironment, describe_hardware
from tomoseg.report.records import CaseReport

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


class LocalExecutor:
    """Segments cases in this process.

    Args:
        segmenter: the loaded bundle.
        output: which files are written.
        on_window: called with a scan's path, the number of its finished windows, and of all of them.
    """

    def __init__(
        self, segmenter: Segmenter, output: OutputOptions | None = None, on_window: OnWindow | None = None
    ) -> None:
        self.bundle = segmenter.bundle
        self.options = segmenter.options
        self.checkpoint_sha256 = segmenter.checkpoint_sha256
        self.output = output or OutputOptions()
        self._segmenter = segmenter
        self._on_window = on_window

    def run(self, cases: Sequence[Case]) -> Generator[tuple[int, CaseReport], None, None]:
        """Yield each case's index and outcome.

        Raises:
            KeyboardInterrupt: Ctrl-C, at a moment at which nothing is half done.
        """
        for folder in {case.output.parent for case in cases}:
            remove_stale(folder)
        delivery = make_delivery(self._segmenter, self.output)
        with PostponedInterrupt() as interrupt:
            yield from _run(self._segmenter, delivery, cases, self._on_window, interrupt)

    def environment(self) -> RunEnvironment:
        """Return what runs the network; its backend is certain once a network was compiled."""
        segmenter = self._segmenter
        return RunEnvironment(segmenter.device, segmenter.backend, segmenter.precision, describe_machine())


def make_delivery(segmenter: Segmenter, output: OutputOptions) -> Delivery:
    """Return the writer of a segmenter's results."""
    run = hash_run(segmenter.bundle, segmenter.checkpoint_sha256, segmenter.options, segmenter.precision)
    return Delivery(run, output, segmenter.options.uncertainty, segmenter.bundle.input_channels)


def describe_machine() -> dict[str, Any]:
    """Return this machine as `describe_hardware` does, with the GPUs and the threads of torch."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return describe_hardware(gpus, torch.get_num_threads())


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

"""Executor of a batch in this process; reading, network and writing of successive scans overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from tomoseg.batch.cases import Case
from tomoseg.batch.interrupt import DelayedInterrupt
from tomoseg.batch.options import OutputOptions
from tomoseg.batch.progress import Outcomes, Progress
from tomoseg.batch.stages import Outcome, Staged, Stages
from tomoseg.core.files import remove_stale
from tomoseg.core.reader_process import stop_reading
from tomoseg.inference.segmenter import Prepared, Segmenter
from tomoseg.report.environment import RunEnvironment, describe_hardware
from tomoseg.report.records import CaseReport

CHECK_EVERY_S = 0.1  # whether Ctrl-C was pressed, while a scan is read or written
T = TypeVar("T")


class LocalExecutor:
    """Segments cases in this process.

    Args:
        segmenter: the loaded bundle.
        output: which files are written.
    """

    def __init__(self, segmenter: Segmenter, output: OutputOptions | None = None) -> None:
        self.bundle = segmenter.bundle
        self.options = segmenter.options
        self.weights = segmenter.weights
        self.output = output or OutputOptions()
        self._segmenter = segmenter
        self._overlaps = segmenter.options.max_memory is None  # a second scan in memory would break a limit

    def run(self, cases: Sequence[Case], progress: Progress | None = None) -> Outcomes:
        """Yield each case's index and outcome; those that ran out of memory beside others run again alone, last.

        Raises:
            KeyboardInterrupt: Ctrl-C, at a moment at which nothing is half done.
        """
        for folder in {case.output.parent for case in cases}:
            remove_stale(folder)
        stages = Stages(self._segmenter, self.output)
        again: list[int] = []
        with DelayedInterrupt() as interrupt:
            watched = _Interruptible(progress or Progress(), interrupt)
            with closing(self._overlap(stages, cases, watched)) as outcomes:
                for index, outcome in enumerate(outcomes):
                    if isinstance(outcome, CaseReport):
                        yield index, outcome
                    elif self._overlaps and len(cases) > 1:
                        again.append(index)
                    else:
                        yield index, outcome.report
            for index in again:
                interrupt.check()
                outcome = stages.segment(cases[index], watched)
                yield index, outcome if isinstance(outcome, CaseReport) else outcome.report

    def environment(self) -> RunEnvironment:
        """Return what runs the network; what really ran it is in the stats of each case."""
        return describe_environment(self._segmenter)

    def _overlap(
        self, stages: Stages, cases: Sequence[Case], watched: _Interruptible
    ) -> Generator[Outcome, None, None]:
        """Yield the outcome of each case, in order: while one is at the network, the next is read, the last written."""
        with ThreadPoolExecutor(1, "tomoseg-read") as reader, ThreadPoolExecutor(1, "tomoseg-write") as writer:
            waiting = deque(cases)
            reading: deque[Future[Staged[Prepared] | Outcome]] = deque()
            writing: deque[Future[Outcome]] = deque()

            def read_next() -> None:
                if waiting and not reading:
                    reading.append(reader.submit(stages.prepare, waiting.popleft()))

            try:
                read_next()
                while reading:
                    watched.interrupt.check()
                    prepared = watched.wait(reading.popleft())
                    if self._overlaps:
                        read_next()
                    segmented = stages.predict(prepared, watched)
                    del prepared  # its tensors, while the next scan is at the network
                    writing.append(writer.submit(stages.write, segmented))
                    del segmented
                    while len(writing) > self._overlaps:
                        yield watched.wait(writing.popleft())
                    read_next()
                while writing:
                    yield watched.wait(writing.popleft())
            except BaseException:
                for future in reading:
                    future.cancel()
                stop_reading()
                raise


def describe_environment(segmenter: Segmenter | None = None) -> RunEnvironment:
    """Return what runs a network, and this machine with the GPUs and the threads of torch."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    hardware = describe_hardware(gpus, torch.get_num_threads())
    if segmenter is None:
        return RunEnvironment(hardware=hardware)
    hardware["advice"] = segmenter.advice
    return RunEnvironment(segmenter.device, segmenter.backend, segmenter.precision, hardware)


@dataclass(frozen=True)
class _Interruptible(Progress):
    """Raises a postponed Ctrl-C between two windows, and while the main thread waits for the others."""

    progress: Progress
    interrupt: DelayedInterrupt

    def on_window(self, path: Path, done: int, total: int) -> None:
        self.interrupt.check()
        self.progress.on_window(path, done, total)

    def wait(self, future: Future[T]) -> T:
        while not wait((future,), CHECK_EVERY_S).done:
            self.interrupt.check()
        return future.result()

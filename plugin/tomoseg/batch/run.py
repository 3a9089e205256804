"""A batch of scans on an executor, and its report; a scan that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict
from importlib.util import find_spec
from typing import Protocol

from tomoseg.batch.cases import Case, refuse_entropy_clashes
from tomoseg.batch.options import OutputOptions
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import Options
from tomoseg.core.errors import MissingPackageError
from tomoseg.core.files import sha256
from tomoseg.report.environment import RunEnvironment, utc_now
from tomoseg.report.records import CaseReport, Report


class Executor(Protocol):
    """Where the cases of a batch are segmented: `LocalExecutor`, or Ray's workers.

    Attributes:
        bundle, options: the bundle and how it is run.
        checkpoint_sha256: SHA-256 of each checkpoint in use.
        output: which files are written.
    """

    bundle: Bundle
    options: Options
    checkpoint_sha256: list[str]
    output: OutputOptions

    def run(self, cases: Sequence[Case]) -> Generator[tuple[int, CaseReport], None, None]:
        """Yield the index of each case and its outcome, in any order."""
        ...

    def environment(self) -> RunEnvironment:
        """Return what ran the network in the last `run`, as far as it is known."""
        ...


class BatchInterruptedError(KeyboardInterrupt):
    """Ctrl-C, with the report of what was done until then."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report


def run_batch(cases: Sequence[Case], executor: Executor, on_case: Callable[[CaseReport], None] | None = None) -> Report:
    """Segment cases on an executor; one that fails is recorded and the rest go on.

    Args:
        cases: the scans and their outputs.
        executor: where they are segmented.
        on_case: called after each; with several workers they end in any order.

    Raises:
        MissingPackageError: a package that an output type needs is not installed.
        UsageError: two cases would write the same file.
        BatchInterruptedError: Ctrl-C; it has the report of what was done until then.
    """
    _require_possible(cases, executor.options)
    report = Report(
        bundle={
            "name": executor.bundle.name,
            "version": executor.bundle.version,
            "config_sha256": sha256(executor.bundle.inference_config),
            "checkpoint_sha256": " ".join(executor.checkpoint_sha256),
        },
        device="",
        backend="",
        precision="",
        options={
            **asdict(executor.options),
            "output_type": sorted({case.kind.name for case in cases}),
            "overwrite": executor.output.overwrite,
            "preview": executor.output.preview,
        },
    )
    done: dict[int, CaseReport] = {}
    try:
        with closing(executor.run(cases)) as outcomes:
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
        ran = executor.environment()
        report.device, report.backend, report.precision = ran.device, ran.backend, ran.precision
        report.hardware = ran.hardware
        report.options |= ran.executor
        report.finished = utc_now()
    return report


def _require_possible(cases: Sequence[Case], options: Options) -> None:
    """Raise MissingPackageError or UsageError if the batch cannot be written, whatever its scans are."""
    for package in {package for case in cases for package in case.kind.packages}:
        if find_spec(package) is None:
            raise MissingPackageError(package)
    if options.uncertainty:
        refuse_entropy_clashes(cases)

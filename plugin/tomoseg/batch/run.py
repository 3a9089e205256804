"""A batch of scans on an executor, and its report; a scan that fails does not stop the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict
from importlib.util import find_spec
from typing import Protocol

from tomoseg.batch.cases import Case, plan_cases, refuse_entropy_clashes
from tomoseg.batch.local import LocalExecutor, OnWindow
from tomoseg.batch.output import OutputOptions
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import Options
from tomoseg.core.errors import MissingPackageError
from tomoseg.core.files import sha256
from tomoseg.inference.segmenter import Segmenter
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
    options = OutputOptions(overwrite=overwrite, preview=preview, measure=measure)
    return run_batch(cases, LocalExecutor(segmenter, options, on_window), on_case)


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
        stats = [case.stats for case in report.cases if case.status == "done"]
        report.device = ran.device
        report.backend = ", ".join(dict.fromkeys(one.backend for one in stats)) or ran.backend
        report.precision = ", ".join(dict.fromkeys(one.precision for one in stats)) or ran.precision
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

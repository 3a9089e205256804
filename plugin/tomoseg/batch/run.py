"""A batch of scans on an executor, and its report; a scan that fails does not stop the others."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from importlib.util import find_spec
from typing import Protocol

from tomoseg.batch.cases import Case, require_distinct_entropy_maps
from tomoseg.batch.options import OutputOptions
from tomoseg.batch.progress import Outcomes, Progress
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import RunOptions
from tomoseg.core.errors import MissingPackageError
from tomoseg.core.files import sha256
from tomoseg.inference.weights import CheckpointSet, hash_weights, name_weights
from tomoseg.report.environment import RunEnvironment, utc_now
from tomoseg.report.records import CaseReport, Report


class Executor(Protocol):
    """Where the cases of a batch are segmented: `LocalExecutor`, or Ray's workers.

    Attributes:
        bundle, options: the bundle and how it is run.
        weights: those in use.
        output: which files are written.
    """

    bundle: Bundle
    options: RunOptions
    weights: list[CheckpointSet]
    output: OutputOptions

    def run(self, cases: Sequence[Case], progress: Progress | None = None) -> Outcomes:
        """Yield the index of each case and its outcome, in any order."""

    def environment(self) -> RunEnvironment:
        """Return backend, precision and hardware of the last `run`, as far as known."""


class BatchInterruptedError(KeyboardInterrupt):
    """Ctrl-C, with the report of the finished cases."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report


def run_batch(cases: Sequence[Case], executor: Executor, progress: Progress | None = None) -> Report:
    """Segment cases on an executor; one that fails is recorded and the rest go on.

    Args:
        cases: the scans and their outputs.
        executor: where they are segmented.
        progress: follows the batch.

    Raises:
        MissingPackageError: a package that an output type needs is not installed.
        UsageError: two cases would write the same file.
        BatchInterruptedError: Ctrl-C; it has the report of the finished cases.
    """
    for package in {package for case in cases for package in case.output_type.packages}:
        if find_spec(package) is None:
            raise MissingPackageError(package)
    if executor.options.uncertainty:
        require_distinct_entropy_maps(cases)
    started, done, progress = utc_now(), dict[int, CaseReport](), progress or Progress()
    progress.on_start(len(cases))
    try:
        with closing(executor.run(cases, progress)) as outcomes:
            for index, report in outcomes:
                done[index] = cases[index].hide(report)
                progress.on_case(done[index])
    except KeyboardInterrupt as error:
        raise BatchInterruptedError(_make_report(started, cases, done, executor, interrupted=True)) from error
    return _make_report(started, cases, done, executor)


def _make_report(
    started: str, cases: Sequence[Case], done: Mapping[int, CaseReport], executor: Executor, interrupted: bool = False
) -> Report:
    """Return the report of a batch that ends now."""
    bundle, ran = executor.bundle, executor.environment()
    stats = [case.stats for case in done.values() if case.status == "done"]
    files = {
        "config_sha256": " ".join(map(sha256, bundle.inference_configs)),
        "checkpoint": ", ".join(name_weights(executor.weights, bundle.root.absolute())),
        "checkpoint_sha256": " ".join(hash_weights(executor.weights)),
    }
    output = executor.output
    written = {name: getattr(output, name) for name in ("overwrite", "split", "statistics_only", "preview")}
    output_types = sorted({case.output_type.name for case in cases})
    return Report(
        bundle={"name": bundle.name, "version": bundle.version, **files},
        device=ran.device,
        backend=", ".join(dict.fromkeys(one.backend for one in stats)) or ran.backend,
        precision=", ".join(dict.fromkeys(one.precision for one in stats)) or ran.precision,
        options={**asdict(executor.options), "output_type": output_types, **written, **ran.executor},
        hardware=ran.hardware, started=started, finished=utc_now(), interrupted=interrupted,
        pending=tuple(case.shown for index, case in enumerate(cases) if index not in done),
        cases=tuple(done[index] for index in sorted(done)),
    )  # fmt: skip

"""Run a segmenter in a Ray worker, and check that its results are those of this machine."""

import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from tomoseg.batch.cases import Case
from tomoseg.batch.local import describe_environment
from tomoseg.batch.manifest import hash_run
from tomoseg.batch.options import OutputOptions
from tomoseg.batch.stages import Outcome, Stages
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.trust import hash_code
from tomoseg.core.errors import WorkerError, one_line
from tomoseg.core.files import remove_stale
from tomoseg.core.version import __version__
from tomoseg.inference.segmenter import Segmenter
from tomoseg.report.environment import RunEnvironment, installed_packages


@dataclass(frozen=True)
class Started:
    """What a worker says of itself.

    Attributes:
        machine: the name of its machine.
        problem: why it cannot work; empty if it can.
        versions: of tomoseg and of the packages that decide what a run computes.
        run: SHA-256 of bundle, weights and options, as it finds them.
        environment: what its network runs on.
    """

    machine: str
    problem: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    run: str = ""
    environment: RunEnvironment = field(default_factory=RunEnvironment)


@dataclass(eq=False)
class Worker:
    """A Ray actor; only arguments and reports travel, never a scan or a label map.

    Attributes:
        bundle: the bundle, whose folder is at the same path on every machine.
        options: as the user asked for them, with the device and the threads of the workers.
        output: which files are written.
        folder: where relative paths start.
        shared: paths that must be there.
        code: what `hash_code` returns for the bundle on the user's machine, where its code may run.
    """

    bundle: Bundle
    options: RunOptions
    output: OutputOptions
    folder: Path
    shared: tuple[Path, ...]
    code: str
    _cleared: set[Path] = field(default_factory=set, init=False)

    def start(self) -> Started:
        """Load the bundle; return an error as a text, because Ray would wrap it in a page of text."""
        machine = platform.node() or "a machine without a name"
        with suppress(OSError):  # if it is of any use, the check that follows fails
            os.chdir(self.folder)
        for path in self.shared:
            if not path.exists():
                return Started(machine, f"{path}: not there; expected a folder that all machines share, at one path")
        try:
            if hash_code(self.bundle.root) != self.code:
                return Started(
                    machine, f"the bundle's code at {self.bundle.root} is another than here. Make it the same"
                )
            segmenter = Segmenter(replace(self.bundle, trusted=True), self.options)
            self._stages = Stages(segmenter, self.output)
        except Exception as error:  # the bundle, whose config may call anything
            return Started(machine, one_line(error))
        return Started(machine, "", versions(), self._stages.run, describe_environment(segmenter))

    def segment(self, case: Case) -> Outcome:
        """Segment one scan; Ray runs several calls in threads, so that reading, network and writing overlap."""
        folder = case.output.parent
        if folder not in self._cleared:  # of workers of this machine that were killed
            self._cleared.add(folder)
            remove_stale(folder)
        return self._stages.segment(case)


def check_worker(started: Started, bundle: Bundle, options: RunOptions, checkpoints: Sequence[str]) -> None:
    """Check that the results of a worker would be those of this machine.

    Args:
        started: what the worker says of itself.
        bundle: the bundle of the batch.
        options: the options of the batch.
        checkpoints: SHA-256 of the weights.

    Raises:
        WorkerError: the worker cannot work, or its results would be others.
    """
    where, here = f"worker on {started.machine}", versions()
    if started.problem:
        raise WorkerError(f"{where}: {started.problem}")
    for name in sorted({*started.versions, *here}):
        theirs, ours = (found.get(name, "missing") for found in (started.versions, here))
        if theirs != ours:
            raise WorkerError(f"{where}: {name} is {theirs} there and {ours} here. Use one environment everywhere")
    if started.run != hash_run(bundle, checkpoints, options, started.environment.precision):
        raise WorkerError(
            f"{where}: the bundle or its weights at {bundle.root} are others than here. Make them the same"
        )


def versions() -> dict[str, str]:
    """Return the versions of tomoseg and of the packages that decide what a run computes."""
    return {"tomoseg": __version__, **installed_packages()}

"""Whether a worker computes what was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from tomoseg.batch.manifest import hash_run
from tomoseg.batch.ray.worker import Started, versions
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import Options
from tomoseg.core.errors import WorkerError
from tomoseg.report.environment import RunEnvironment


class Acceptance:
    """Takes on workers whose results are those of this machine, and notes what they run on.

    Args:
        environment: filled in as workers start.
        bundle, options: what is asked for.
        checkpoints: SHA-256 of the weights.
    """

    def __init__(
        self, environment: RunEnvironment, bundle: Bundle, options: Options, checkpoints: Sequence[str]
    ) -> None:
        self._environment = environment
        self._bundle = bundle
        self._options = options
        self._checkpoints = checkpoints
        self._here = versions()

    def __call__(self, started: Started) -> None:
        """Take a worker on.

        Raises:
            WorkerError: it cannot work, or its results would be others.
        """
        where = f"worker on {started.machine}"
        if started.problem:
            raise WorkerError(f"{where}: {started.problem}")
        for name in sorted({*started.versions, *self._here}):
            there, here = (found.get(name, "missing") for found in (started.versions, self._here))
            if there != here:
                raise WorkerError(f"{where}: {name} is {there} there and {here} here; use one environment everywhere")
        if started.run != hash_run(self._bundle, self._checkpoints, self._options, started.precision):
            raise WorkerError(
                f"{where}: the bundle or its weights at {self._bundle.root} are others than here; make them the same"
            )
        ran = self._environment
        if not ran.device:
            ran.device, ran.backend, ran.precision = started.device, started.backend, started.precision
            ran.hardware = {**started.hardware, "workers": []}
        ran.hardware["workers"].append({"machine": started.machine, "gpus": started.hardware["gpus"]})

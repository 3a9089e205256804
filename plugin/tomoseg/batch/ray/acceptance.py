"""Check that a worker computes what was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from tomoseg.batch.manifest import hash_run
from tomoseg.batch.ray.worker import Started, versions
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import Options
from tomoseg.core.errors import WorkerError


def check_worker(started: Started, bundle: Bundle, options: Options, checkpoints: Sequence[str]) -> None:
    """Check that the results of a worker would be those of this machine.

    Args:
        started: what the worker says of itself.
        bundle, options: what is asked for.
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
            raise WorkerError(f"{where}: {name} is {theirs} there and {ours} here; use one environment everywhere")
    if started.run != hash_run(bundle, checkpoints, options, started.precision):
        raise WorkerError(
            f"{where}: the bundle or its weights at {bundle.root} are others than here; make them the same"
        )

"""A batch on Ray: a segmenter for each GPU, or for each share of the CPUs, on one machine or on many."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tomoseg.batch.cases import Case
from tomoseg.batch.local import describe_environment
from tomoseg.batch.options import OutputOptions
from tomoseg.batch.progress import Outcomes, Progress
from tomoseg.batch.ray.cluster import WorkerResources, choose_share, connected, machines_of, require_resources
from tomoseg.batch.ray.dispatch import Dispatch
from tomoseg.batch.ray.worker import Started, Worker, check_worker
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.trust import hash_code
from tomoseg.core.files import remove_stale, staging_folder
from tomoseg.inference.label_map import require_labels
from tomoseg.inference.weights import find_weights, hash_weights
from tomoseg.report.environment import RunEnvironment

MAX_SCANS_IN_FLIGHT = 3  # one is read, one is at the network, one is written


@dataclass
class RayExecutor:
    """Segments cases on Ray's actors; the files are those of a `LocalExecutor`.

    Every machine reads and writes the same paths, so inputs, output and bundle lie on storage that all have mounted.
    The cases of a worker that dies are given to others. Options hold for each worker, `max_memory` too.

    Attributes:
        bundle: the bundle.
        options: how it is run; the device is "auto", "cpu" or "cuda".
        output: which files are written.
        address: of a cluster: "auto", "HOST:PORT" or "ray://HOST:PORT"; None to start Ray on this machine.
        jobs: number of workers; None for one a GPU, or one a machine where the network runs on CPUs.

    Raises:
        UsageError: an option is for one machine only, or no cluster has so many workers.
        BundleError: the bundle's config or weights cannot be read.
    """

    bundle: Bundle
    options: RunOptions
    output: OutputOptions = field(default_factory=OutputOptions)
    address: str | None = field(default=None, kw_only=True)
    jobs: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require_resources(self.options, self.jobs)
        require_labels(self.bundle, self.options.labels)
        self.weights = find_weights(self.bundle, self.options)
        self._share: WorkerResources | None = None
        self._workers: list[Started] = []

    def run(self, cases: Sequence[Case], progress: Progress | None = None) -> Outcomes:
        """Yield the index of each case and its outcome, as they end; the workers end with it.

        Raises:
            UsageError: there is no cluster at the address, or no room in it.
            WorkerError: a worker does not see the same folders, or has other versions or weights.
            OutputError: the output folder cannot be written to.
        """
        parents = {case.output.parent.absolute() for case in cases}
        for folder in parents:
            remove_stale(folder)
        self._share, self._workers = None, []
        try:
            with connected(self.address, self.options.device) as ray:
                elastic = self.address is not None
                share = self._share = choose_share(machines_of(ray), self.options.device, self.jobs, elastic)
                # only machines that share the output folder see new files in it
                with staging_folder(Path(os.path.commonpath(parents))) as mark:
                    # what else is in memory would break a limit
                    in_flight = MAX_SCANS_IN_FLIGHT if self.options.max_memory is None else 1
                    actors = self._actors(ray, share, in_flight, cases, mark)
                    dispatch = Dispatch(ray, actors, share.workers, in_flight, self._accept, progress or Progress())
                    with closing(dispatch.run(cases)) as outcomes:
                        yield from outcomes
        finally:
            for folder in parents:  # what workers were at when they were stopped
                remove_stale(folder)

    def environment(self) -> RunEnvironment:
        """Return what the workers run the network on, as far as they have said so."""
        executor = {} if self._share is None else {"executor": "ray", "workers": self._share.workers}
        if not self._workers:
            return replace(describe_environment(), executor=executor)
        first = self._workers[0].environment
        machines = [{"machine": one.machine, "gpus": one.environment.hardware["gpus"]} for one in self._workers]
        return replace(first, hardware={**first.hardware, "workers": machines}, executor=executor)

    def _accept(self, started: Started) -> None:
        check_worker(started, self.bundle, self.options, hash_weights(self.weights))
        self._workers.append(started)

    def _actors(
        self, ray: Any, share: WorkerResources, in_flight: int, cases: Sequence[Case], mark: Path
    ) -> Callable[[], Any]:
        """Return what starts a worker; it looks for the mark, the bundle and one scan, if there is any."""
        inputs = (case.input.absolute() for case in cases if case.input.exists())
        shared = (mark, self.bundle.root.absolute(), *islice(inputs, 1))
        options = replace(self.options, device="cuda" if share.gpus else "cpu", threads=share.cpus)
        resources = {"num_cpus": share.cpus, "num_gpus": share.gpus, "max_concurrency": in_flight}
        actor = ray.remote(**resources, scheduling_strategy="SPREAD")(Worker)
        code = hash_code(self.bundle.root)
        return lambda: actor.remote(self.bundle, options, self.output, Path.cwd(), shared, code)

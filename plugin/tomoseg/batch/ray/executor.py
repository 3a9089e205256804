"""A batch on Ray: a segmenter for each GPU, or for each share of the CPUs, on one machine or on many."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from tomoseg.batch.cases import Case
from tomoseg.batch.local import describe_machine
from tomoseg.batch.output import OutputOptions
from tomoseg.batch.ray.acceptance import Acceptance
from tomoseg.batch.ray.cluster import Share, choose_share, connected, machines_of, refuse_what_ray_cannot_give
from tomoseg.batch.ray.dispatch import Dispatch
from tomoseg.batch.ray.worker import Order, Worker
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import Options
from tomoseg.core.files import remove_stale, staging_folder
from tomoseg.inference.config import InferenceConfig
from tomoseg.inference.weights import hash_weights, weights_in_use
from tomoseg.report.environment import RunEnvironment
from tomoseg.report.records import CaseReport

MAX_SCANS_IN_FLIGHT = 3  # one is read, one is at the network, one is written


class RayExecutor:
    """Segments cases on Ray's actors; the files are those of a `LocalExecutor`.

    Every machine reads and writes the same paths, so inputs, output and bundle lie on storage that all have mounted.
    The cases of a worker that dies are given to others. Options hold for each worker, `max_memory` too.

    Args:
        bundle: the bundle.
        options: how it is run; the device is "auto", "cpu" or "cuda".
        output: which files are written.
        address: of a cluster: "auto", "HOST:PORT" or "ray://HOST:PORT"; None to start Ray on this machine.
        jobs: number of workers; None for one a GPU, or one a machine where the network runs on CPUs.
        on_note: called when a worker is lost; the batch goes on.

    Raises:
        UsageError: an option is for one machine only, or no cluster has so many workers.
        BundleError: the bundle's config or weights cannot be read.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: Options,
        output: OutputOptions | None = None,
        *,
        address: str | None = None,
        jobs: int | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        refuse_what_ray_cannot_give(options, jobs)
        self.bundle = bundle
        self.options = options
        config = InferenceConfig(bundle, torch.device("cpu"), options.overlap)
        self.checkpoint_sha256 = hash_weights(weights_in_use(config, options))
        self.output = output or OutputOptions()
        self._address = address
        self._jobs = jobs
        self._on_note = on_note
        self._environment = RunEnvironment(hardware=describe_machine())

    def run(self, cases: Sequence[Case]) -> Generator[tuple[int, CaseReport], None, None]:
        """Yield the index of each case and its outcome, as they end; the workers end with it.

        Raises:
            UsageError: there is no cluster at the address, or no room in it.
            WorkerError: a worker does not see the same folders, or has other versions or weights.
            OutputError: the output folder cannot be written to.
        """
        parents = {case.output.parent.absolute() for case in cases}
        for folder in parents:
            remove_stale(folder)
        ran = self._environment = RunEnvironment(hardware=describe_machine())
        try:
            with connected(self._address, self.options.device) as ray:
                elastic = self._address is not None
                share = choose_share(machines_of(ray), self.options.device, self._jobs, elastic)
                ran.executor = {"engine": "ray", "workers": share.workers}
                # only machines that share the output folder see what is new in it
                with staging_folder(Path(os.path.commonpath(parents))) as mark:
                    # what else is in memory would break a limit
                    in_flight = MAX_SCANS_IN_FLIGHT if self.options.max_memory is None else 1
                    actors = _actors(ray, share, self._order(cases, share, mark), in_flight)
                    accept = Acceptance(ran, self.bundle, self.options, self.checkpoint_sha256)
                    dispatch = Dispatch(ray, actors, share.workers, in_flight, accept, self._on_note)
                    with closing(dispatch.run(cases)) as outcomes:
                        try:
                            yield from outcomes
                        finally:
                            ran.backend = dispatch.backend or ran.backend
        finally:
            for folder in parents:  # what workers were at when they were stopped
                remove_stale(folder)

    def environment(self) -> RunEnvironment:
        """Return what the workers run the network on, as far as they have said so."""
        return self._environment

    def _order(self, cases: Sequence[Case], share: Share, mark: Path) -> Order:
        return Order(
            bundle=self.bundle,
            options=replace(self.options, device="cuda" if share.gpus else "cpu", threads=share.cpus),
            output=self.output,
            folder=Path.cwd(),
            shared=(mark, self.bundle.root.absolute(), *_an_input(cases)),
        )


def _actors(ray: Any, share: Share, order: Order, in_flight: int) -> Callable[[], Any]:
    """Return what starts a worker."""
    kind = ray.remote(
        num_cpus=share.cpus, num_gpus=share.gpus, max_concurrency=in_flight, scheduling_strategy="SPREAD"
    )(Worker)
    return lambda: kind.remote(order)


def _an_input(cases: Sequence[Case]) -> list[Path]:
    """Return one scan that is there; those that are not fail by themselves."""
    return list(islice((case.input.absolute() for case in cases if case.input.exists()), 1))

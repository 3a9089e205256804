"""A batch on Ray: a segmenter for each GPU, or for each share of the CPUs, on one machine or on many."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from tomoseg.batch.cases import Case
from tomoseg.batch.ray.acceptance import Acceptance
from tomoseg.batch.ray.cluster import Share, choose_share, connected, machines_of, refuse_what_ray_cannot_give
from tomoseg.batch.ray.dispatch import Dispatch
from tomoseg.batch.ray.worker import Order, Worker
from tomoseg.batch.run import fill_report, refuse_what_cannot_be, start_report
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import Options
from tomoseg.core.files import remove_stale, staging_folder
from tomoseg.inference.config import InferenceConfig
from tomoseg.inference.weights import hash_weights, weights_in_use
from tomoseg.report.records import CaseReport, Report

__all__ = ["segment_cases_on_ray"]

IN_FLIGHT = 3  # one is read, one is at the network, one is written


def segment_cases_on_ray(
    bundle: Bundle,
    options: Options,
    cases: Sequence[Case],
    *,
    address: str | None = None,
    jobs: int | None = None,
    overwrite: bool = False,
    preview: bool = False,
    measure: bool = True,
    on_case: Callable[[CaseReport], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Report:
    """Segment scans whose outputs are planned already on Ray's actors; the files are those of `segment_cases`.

    Every machine reads and writes the same paths, so inputs, output and bundle lie on storage that all have mounted.
    The cases of a worker that dies are given to others. Options hold for each worker, `max_memory` too.

    Args:
        bundle: the bundle.
        options: how it is run; the device is "auto", "cpu" or "cuda".
        cases: the scans.
        address: of a cluster: "auto", "HOST:PORT" or "ray://HOST:PORT"; None to start Ray on this machine.
        jobs: number of workers; None for one a GPU, or one a machine where the network runs on CPUs.
        overwrite, preview, measure, on_case: as for `segment_batch`; cases end in any order.
        on_note: called when a worker is lost; the batch goes on.

    Raises:
        UsageError: there is no cluster at the address, or no room in it.
        WorkerError: a worker does not see the same folders, or has other versions or weights.
        BatchInterruptedError: Ctrl-C; the report tells what was done until then.
        BundleError, MissingPackageError, OutputError: nothing can be segmented, or written.
    """
    refuse_what_cannot_be(cases, options)
    refuse_what_ray_cannot_give(options, jobs)
    config = InferenceConfig(bundle, torch.device("cpu"), options.overlap)
    checkpoints = hash_weights(weights_in_use(config, options))
    report = start_report(bundle, checkpoints, options, cases, overwrite=overwrite, preview=preview)
    parents = {case.output.parent.absolute() for case in cases}
    for folder in parents:
        remove_stale(folder)
    mark_in = Path(os.path.commonpath(parents))
    try:
        with connected(address, options.device) as ray:
            share = choose_share(machines_of(ray), options.device, jobs, elastic=address is not None)
            report.options |= {"engine": "ray", "workers": share.workers}
            with staging_folder(mark_in) as mark:  # only machines that share the output folder see what is new in it
                order = Order(
                    bundle=bundle,
                    options=replace(options, device="cuda" if share.gpus else "cpu", threads=share.cpus),
                    overwrite=overwrite,
                    preview=preview,
                    measure=measure,
                    folder=Path.cwd(),
                    shared=(mark, bundle.root.absolute(), *_an_input(cases)),
                )
                in_flight = IN_FLIGHT if options.max_memory is None else 1  # what else is in memory would break a limit
                actors = _actors(ray, share, order, in_flight)
                accept = Acceptance(report, bundle, options, checkpoints)
                dispatch = Dispatch(ray, actors, share.workers, in_flight, accept, on_note)
                with closing(dispatch.run(cases)) as outcomes:
                    fill_report(report, cases, outcomes, on_case)
                report.backend = dispatch.backend or report.backend
    finally:
        for folder in parents:  # what workers were at when they were stopped
            remove_stale(folder)
    return report


def _actors(ray: Any, share: Share, order: Order, in_flight: int) -> Callable[[], Any]:
    """Return what starts a worker."""
    kind = ray.remote(
        num_cpus=share.cpus, num_gpus=share.gpus, max_concurrency=in_flight, scheduling_strategy="SPREAD"
    )(Worker)
    return lambda: kind.remote(order)


def _an_input(cases: Sequence[Case]) -> list[Path]:
    """Return one scan that is there; those that are not fail by themselves."""
    return list(islice((case.input.absolute() for case in cases if case.input.exists()), 1))

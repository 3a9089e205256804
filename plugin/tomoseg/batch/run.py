"""Many scans: while one is at the network, the next is read and the last is written; one that fails stops nobody."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from importlib.util import find_spec

import torch

from tomoseg.batch.cases import Case, plan_cases, refuse_entropy_clashes
from tomoseg.batch.interrupt import PostponedInterrupt
from tomoseg.batch.local import OnWindow, _run
from tomoseg.batch.manifest import hash_run
from tomoseg.batch.output import Delivery
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import Options
from tomoseg.core.errors import MissingPackageError
from tomoseg.core.files import remove_stale, sha256
from tomoseg.inference.segmenter import Segmenter
from tomoseg.report.environment import describe_hardware, utc_now
from tomoseg.report.records import CaseReport, Report


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
    return segment_cases(
        segmenter,
        cases,
        overwrite=overwrite,
        preview=preview,
        measure=measure,
        on_case=on_case,
        on_window=on_window,
    )


def segment_cases(
    segmenter: Segmenter,
    cases: Sequence[Case],
    *,
    overwrite: bool = False,
    preview: bool = False,
    measure: bool = True,
    follow: bool = False,
    on_case: Callable[[CaseReport], None] | None = None,
    on_window: OnWindow | None = None,
) -> Report:
    """Segment scans whose outputs are planned already; otherwise as `segment_batch`.

    Args:
        follow: as for `Delivery`.
    """
    refuse_what_cannot_be(cases, segmenter.options)
    report = start_report(
        segmenter.bundle, segmenter.checkpoint_sha256, segmenter.options, cases, overwrite=overwrite, preview=preview
    )
    report.device, report.backend, report.precision = segmenter.device, segmenter.backend, segmenter.precision
    for folder in {case.output.parent for case in cases}:
        remove_stale(folder)
    run = hash_run(segmenter.bundle, segmenter.checkpoint_sha256, segmenter.options, segmenter.precision)
    delivery = Delivery(
        run, overwrite, preview, measure, segmenter.options.uncertainty, segmenter.bundle.input_channels, follow
    )
    try:
        with PostponedInterrupt() as interrupt:
            return fill_report(report, cases, _run(segmenter, delivery, cases, on_window, interrupt), on_case)
    finally:
        report.backend = segmenter.backend  # known for sure once a network was compiled


def refuse_what_cannot_be(cases: Sequence[Case], options: Options) -> None:
    """Raise MissingPackageError or UsageError if what was asked of a batch cannot be, whatever its scans are."""
    for package in {package for case in cases for package in case.kind.packages}:
        if find_spec(package) is None:
            raise MissingPackageError(package)
    if options.uncertainty:
        refuse_entropy_clashes(cases)


def start_report(
    bundle: Bundle,
    checkpoints: Sequence[str],
    options: Options,
    cases: Sequence[Case],
    *,
    overwrite: bool,
    preview: bool,
) -> Report:
    """Return the report of a batch that is about to start; what its networks run on is for the caller to fill in.

    Args:
        bundle: the bundle.
        checkpoints: SHA-256 of the weights in use.
        options: as the user asked for them.
        cases: the scans.
        overwrite, preview: as for `segment_batch`.
    """
    return Report(
        bundle={
            "name": bundle.name,
            "version": bundle.version,
            "config_sha256": sha256(bundle.inference_config),
            "checkpoint_sha256": " ".join(checkpoints),
        },
        device="",
        backend="",
        precision="",
        options={
            **asdict(options),
            "output_type": sorted({case.kind.name for case in cases}),
            "overwrite": overwrite,
            "preview": preview,
        },
        hardware=describe_hardware(
            [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())], torch.get_num_threads()
        ),
        pending=[str(case.input) for case in cases],
    )


def fill_report(
    report: Report,
    cases: Sequence[Case],
    outcomes: Iterable[tuple[int, CaseReport]],
    on_case: Callable[[CaseReport], None] | None,
) -> Report:
    """Return the report with the outcomes of the cases, in the cases' order.

    Args:
        report: as `start_report` made it.
        cases: all of the batch.
        outcomes: the index of each case and what came of it, in any order.
        on_case: called after each.

    Raises:
        BatchInterruptedError: Ctrl-C; the report tells what was done until then.
    """
    done: dict[int, CaseReport] = {}
    try:
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
        report.finished = utc_now()
    return report

"""Many scans: while one is at the network, the next is read and the last is written; one that fails stops nobody."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import torch

from tomoseg.cases import Case, plan_cases, refuse_entropy_clashes
from tomoseg.delivery import Delivery
from tomoseg.errors import MissingExtraError, OutputError, TomosegError, one_line
from tomoseg.files import remove_stale, sha256
from tomoseg.preview import require_matplotlib
from tomoseg.report import CaseReport, Report, describe_hardware, utc_now
from tomoseg.segmentation import Segmentation
from tomoseg.segmenter import Prepared, Segmenter
from tomoseg.sidecar import hash_run, hash_scan
from tomoseg.volumes import VOLUME_SUFFIXES, has_suffix

# a scan's path, the number of its windows that are done, and of all of them
OnWindow = Callable[[Path, int, int], None]
_Future: TypeAlias = "Future[Any]"


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
        MissingExtraError: what a preview or the output type needs is not installed.
    """
    cases = plan_cases(inputs, output, output_type, series)
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
    on_case: Callable[[CaseReport], None] | None = None,
    on_window: OnWindow | None = None,
) -> Report:
    """Segment scans whose outputs are planned already; otherwise as `segment_batch`."""
    if preview:
        require_matplotlib()
    for package in {package for case in cases for package in case.kind.packages}:
        if find_spec(package) is None:
            raise MissingExtraError(package, "dicom")
    bundle = segmenter.bundle
    report = Report(
        bundle={
            "name": bundle.name,
            "version": bundle.version,
            "config_sha256": sha256(bundle.inference_config),
            "checkpoint_sha256": " ".join(segmenter.checkpoint_sha256),
        },
        device=segmenter.device,
        backend=segmenter.backend,
        precision=segmenter.precision,
        options={
            **asdict(segmenter.options),
            "output_type": sorted({case.kind.name for case in cases}),
            "overwrite": overwrite,
            "preview": preview,
        },
        hardware=describe_hardware([torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]),
        pending=[str(case.input) for case in cases],
    )
    if segmenter.options.uncertainty:
        refuse_entropy_clashes(cases)
    for folder in {case.output.parent for case in cases}:
        remove_stale(folder)
    run = hash_run(bundle, segmenter.checkpoint_sha256, segmenter.options, segmenter.precision)
    delivery = Delivery(run, overwrite, preview, measure, segmenter.options.uncertainty)
    try:
        for record in _run(segmenter, delivery, cases, on_window):
            report.cases.append(record)
            report.pending.pop(0)
            if on_case is not None:
                on_case(record)
    except KeyboardInterrupt as error:
        report.interrupted = True
        raise BatchInterruptedError(report) from error
    finally:
        report.backend = segmenter.backend  # known for sure once a network was compiled
        report.finished = utc_now()
    return report


def _run(
    segmenter: Segmenter, delivery: Delivery, cases: Sequence[Case], on_window: OnWindow | None
) -> Iterator[CaseReport]:
    """Yield the outcome of each case, in order: while one is at the network, the next is read, the last written."""
    apart = segmenter.options.max_memory is None  # what else is in memory would break a limit
    with ThreadPoolExecutor(1, "tomoseg-read") as reader, ThreadPoolExecutor(1, "tomoseg-write") as writer:
        waiting, reading, writing = deque(cases), deque[tuple[Case, _Future]](), deque[_Future]()

        def read_next() -> None:
            if waiting and not reading:
                case = waiting.popleft()
                reading.append((case, reader.submit(_guarded, case, _prepare, segmenter, delivery, case)))

        try:
            read_next()
            while reading:
                case, future = reading.popleft()
                ready = future.result()
                if apart:
                    read_next()
                if not isinstance(ready, CaseReport):
                    ready = _guarded(case, _predict, segmenter, case, *ready, on_window)
                if isinstance(ready, CaseReport):
                    writing.append(writer.submit(_as_it_is, ready))
                else:
                    writing.append(writer.submit(_guarded, case, delivery.deliver, case, *ready))
                del ready
                while len(writing) > apart:
                    yield writing.popleft().result()
                read_next()
            while writing:
                yield writing.popleft().result()
        except BaseException:
            for _, future in reading:
                future.cancel()
            raise


def _prepare(segmenter: Segmenter, delivery: Delivery, case: Case) -> CaseReport | tuple[Prepared, str]:
    if case.kind.packages and case.input.is_file() and has_suffix(case.input.name, VOLUME_SUFFIXES):
        raise OutputError(f"{case.input}: expected a DICOM series, for {case.kind.name} refers to one")
    scan = ""
    if case.resumable:
        with suppress(OSError):  # the reader will tell what is wrong with it
            scan = hash_scan(case.input, case.kind.name, case.series)
    return delivery.earlier(case, scan) or (segmenter.prepare(case.input, case.series), scan)


def _predict(
    segmenter: Segmenter, case: Case, prepared: Prepared, scan: str, on_window: OnWindow | None
) -> tuple[Segmentation, str]:
    progress = None if on_window is None else partial(on_window, case.input)
    return segmenter.predict(prepared, progress), scan


def _as_it_is(report: CaseReport) -> CaseReport:
    return report


def _guarded(case: Case, work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what the work returns, or the report that it failed: the other scans still matter."""
    try:
        return work(*arguments)
    except TomosegError as error:
        reason = one_line(error)
    except MemoryError as error:
        reason = f"{case.input}: not enough memory for this scan: {one_line(error)}"
    except Exception as error:  # an error of ours or of a library
        reason = f"{case.input}: unexpected {type(error).__name__}: {one_line(error)}"
    return CaseReport(input=str(case.input), output=None, status="failed", reason=reason)

"""Many scans, one after the other; one that fails does not stop the rest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tomoseg.cases import Case, plan_cases, refuse_entropy_clashes
from tomoseg.errors import MissingExtraError, OutputError, TomosegError, one_line
from tomoseg.files import sha256
from tomoseg.preview import require_matplotlib, save_preview
from tomoseg.report import CaseReport, LabelVolume, Report
from tomoseg.segmentation import Segmentation
from tomoseg.segmenter import Segmenter
from tomoseg.volumes import VOLUME_SUFFIXES, has_suffix, read_volume

# a scan's path, the number of its windows that are done, and of all of them
OnWindow = Callable[[Path, int, int], None]


def segment_batch(
    segmenter: Segmenter,
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    output_type: str | None = None,
    series: str | None = None,
    overwrite: bool = False,
    preview: bool = False,
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
        on_case: called after each scan.
        on_window: called with a scan's path, the number of its windows that are done, and of all of them.

    Raises:
        UsageError: as for `plan_cases`.
        MissingExtraError: what a preview or the output type needs is not installed.
    """
    cases = plan_cases(inputs, output, output_type, series)
    return segment_cases(segmenter, cases, overwrite=overwrite, preview=preview, on_case=on_case, on_window=on_window)


def segment_cases(
    segmenter: Segmenter,
    cases: Sequence[Case],
    *,
    overwrite: bool = False,
    preview: bool = False,
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
    )
    if segmenter.options.uncertainty:
        refuse_entropy_clashes(cases)
    for case in cases:
        progress = None if on_window is None else partial(on_window, case.input)
        record = _segment_case(segmenter, case, overwrite, preview, progress)
        report.cases.append(record)
        if on_case is not None:
            on_case(record)
    report.backend = segmenter.backend  # known for sure once a network was compiled
    return report


def _segment_case(
    segmenter: Segmenter, case: Case, overwrite: bool, preview: bool, on_window: Callable[[int, int], None] | None
) -> CaseReport:
    try:
        for path in (case.output, *([case.entropy] if segmenter.options.uncertainty else [])):
            if path.exists() and not overwrite:
                raise OutputError(f"{path}: is there already; pass --overwrite to replace it")
        if case.kind.packages and case.input.is_file() and has_suffix(case.input.name, VOLUME_SUFFIXES):
            raise OutputError(f"{case.input}: expected a DICOM series, for {case.kind.name} refers to one")
        result = segmenter(case.input, on_window, case.series)
        start = time.perf_counter()
        if result.entropy is not None:
            result.save_entropy(case.entropy)
        result.save(case.output, case.kind.name)
        remarks = [*result.remarks, *([_save_picture(case, result)] if preview else [])]
        writing = time.perf_counter() - start
    except TomosegError as error:
        reason = one_line(error)
    except MemoryError as error:
        reason = f"{case.input}: not enough memory for this scan: {one_line(error)}"
    except Exception as error:  # an error of ours or of a library: the other scans still matter
        reason = f"{case.input}: unexpected {type(error).__name__}: {one_line(error)}"
    else:
        return CaseReport(
            input=str(case.input),
            output=str(case.output),
            status="done",
            series=result.series.uid if result.series else None,
            remarks=tuple(filter(None, remarks)),
            seconds={**result.seconds, "writing": writing},
            windows=result.windows,
            skipped_windows=result.skipped_windows,
            memory=result.memory,
            labels=_measure(result),
        )
    return CaseReport(input=str(case.input), output=None, status="failed", reason=reason)


def _save_picture(case: Case, result: Segmentation) -> str:
    """Write the preview; return why there is none, for the label map is good without it."""
    labels = result.labels
    if result.overlapping:  # the last of several labels is drawn
        labels = np.zeros(result.grid.shape, np.uint16)
        for value, mask in enumerate(result.labels, 1):
            labels[mask > 0] = value
    try:
        # once more: while the network ran, its memory was of better use
        scan = read_volume(case.input, case.series, allow_non_finite=True)
        image = np.nan_to_num(scan.array)
        save_preview(case.picture, image, labels, result.grid, result.label_table, case.input.resolve().name)
    except Exception as error:  # whatever matplotlib raises, the label map is written
        return f"no preview: {one_line(error)}"
    return ""


def _measure(result: Segmentation) -> tuple[LabelVolume, ...]:
    return tuple(
        LabelVolume(value, result.names[value], count, count * result.grid.voxel_volume_ml)
        for value, count in result.voxel_counts.items()
    )

"""A result as the file that a client asked for."""

import logging
import os
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tomoseg.core.errors import UsageError
from tomoseg.data.components import largest_component
from tomoseg.data.nrrd_segmentation import write_nrrd_segmentation
from tomoseg.inference.segmentation import Segmentation
from tomoseg.label_app.served_labels import ServedLabels

LOGGER = logging.getLogger(__name__)


def write_answer(result: Segmentation, extension: str, compress: bool = True) -> Path:
    """Write a result into a new temporary file, which the caller removes.

    Args:
        result: labels with the served numbers.
        extension: ".nii.gz", ".nii", ".nrrd" (a label map that OHIF reads, too), ".seg.nrrd" (3D Slicer's segmentation;
            labels that overlap are layers of it) or ".dcm" (DICOM Segmentation).
        compress: whether .nrrd is compressed; OHIF reads it uncompressed only.

    Raises:
        UsageError: a DICOM Segmentation is asked for, and the scan was not read from DICOM.
        OutputError: the file cannot be written.
        MissingPackageError: a package for DICOM is not installed.
    """
    if extension == ".dcm" and result.series is None:
        raise UsageError("dicom_seg: expected an image that was read from DICOM, for the answer refers to its series")
    handle, name = tempfile.mkstemp(suffix=extension)
    os.close(handle)
    path = Path(name)
    try:
        if extension in (".nrrd", ".seg.nrrd"):
            whole = result if extension == ".seg.nrrd" else result.as_one_map()
            write_nrrd_segmentation(path, whole.labels, whole.grid, whole.label_table, compress=compress)
        elif extension == ".dcm":
            result.save(path)
        else:
            result.as_one_map().save(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def log_warnings(result: Segmentation, source: str | os.PathLike[str]) -> None:
    """Log why the labels of a scan may be wrong, because clients hardly show it."""
    for warning in result.warnings:
        LOGGER.warning("%s: %s", Path(source).name, warning)


def keep_largest(result: Segmentation) -> Segmentation:
    """Return a result with only the largest piece of each label; pieces that touch at corners are one."""
    labels = result.labels.copy()
    for label in result.label_table:
        layer = labels[label.value - 1] if result.overlapping else labels
        mask = layer == (1 if result.overlapping else label.value)
        layer[mask & ~largest_component(mask)] = 0
    return replace(result, labels=labels)


def describe_answer(result: Segmentation, labels: ServedLabels, version: int) -> dict[str, Any]:
    """Return the JSON that goes beside the file.

    Args:
        result: labels with the served numbers; its `location`, with the sides of a whole scan, has the form of
            `report.json`.
        labels: of the bundle.
        version: of the weights, 0 for the bundle's own.
    """
    known = result.expected_dice
    return {
        "label_names": {label.name: label.value for label in result.label_table},
        "label_colors": {label.name: list(label.colour) for label in result.label_table} | labels.colours,
        "volumes_ml": {name: round(volume, 3) for name, volume in result.volumes_ml.items()},
        "expected_dice": {
            label.name: asdict(known[label.value]) for label in result.label_table if label.value in known
        },
        "weights_version": version,
        "notes": list(result.stats.notes),
        "warnings": list(result.warnings),
        "location": None if result.location is None else asdict(result.location),
        "out_of_domain": None if result.out_of_domain is None else asdict(result.out_of_domain),
        "latencies": {stage: round(seconds, 3) for stage, seconds in result.stats.seconds.items()}
        | {"total": round(result.stats.total_seconds, 3)},
    }

"""DICOM-SEG and RTSTRUCT files read by hand, from nothing but the files."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from skimage.draw import polygon2mask

from support.slices import read_slices
from tomoseg.data.geometry import Grid
from tomoseg.data.labels import Label
from tomoseg.data.segments import LabelMap
from tomoseg.data.volume import DicomSeries

LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"


def run_dciodvfy(path: Path) -> list[str]:
    """Return what dicom3tools says of a file, nothing where it is not installed."""
    if shutil.which("dciodvfy") is None:
        return []
    done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).splitlines()


def label_map(
    labels: NDArray[Any],
    series: DicomSeries | None,
    table: Sequence[Label],
    algorithm: str,
    version: str,
    grid: Grid | None = None,
) -> LabelMap:
    """Return labels of a series as the writers take them."""
    grid = grid or Grid(labels.shape[-3:], np.eye(4))
    return LabelMap(labels, grid, tuple(table), algorithm, version, series=series)


def read_by_hand(dataset: Dataset, series: DicomSeries) -> dict[int, NDArray[np.uint8]]:
    """Return where each segment lies in the volume, from nothing but the files."""
    known = read_slices(series)
    positions = np.array([one.position for one in known])
    shared = dataset.SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    steps = cosines * np.array(measures.PixelSpacing[::-1], float)[:, None]
    label_map = dataset.SOPClassUID == LABEL_MAP
    numbers = [int(one.SegmentNumber) for one in dataset.SegmentSequence if one.SegmentNumber > 0]
    found = {number: np.zeros((dataset.Columns, dataset.Rows, len(known)), np.uint8) for number in numbers}
    pixels = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    groups = dataset.PerFrameFunctionalGroupsSequence
    for group, frame in zip(groups, pixels, strict=True):
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        distances = np.linalg.norm(positions - position, axis=1)
        k = int(distances.argmin())
        assert distances[k] < 1e-6
        np.testing.assert_allclose(steps, known[k].steps, atol=1e-9)
        (derivation,) = group.DerivationImageSequence
        (image,) = derivation.SourceImageSequence
        assert (image.ReferencedSOPInstanceUID, image.get("ReferencedFrameNumber")) == known[k].name
        assert image.ReferencedSOPClassUID == known[k].sop_class
        if label_map:
            for number in numbers:
                found[number][:, :, k] += (frame == number).T
            assert set(np.unique(frame)) <= {0, *numbers}
        else:
            own = group if "SegmentIdentificationSequence" in group else shared
            found[int(own.SegmentIdentificationSequence[0].ReferencedSegmentNumber)][:, :, k] += frame.T
    return found


def read_labels(dataset: Dataset, series: DicomSeries) -> NDArray[np.int64]:
    found = read_by_hand(dataset, series)
    assert sum(found.values()).max() <= 1  # type: ignore[union-attr]
    return np.asarray(sum(number * mask.astype(np.int64) for number, mask in found.items()))


def rasterise(dataset: Dataset, series: DicomSeries) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each region's number and how many contours hold each voxel, from nothing but the files."""
    known = read_slices(series)
    places = {one.name: k for k, one in enumerate(known)}
    for region in dataset.ROIContourSequence:
        counts = np.zeros((*known[0].size, len(known)), np.int64)
        for contour in region.get("ContourSequence", ()):
            (image,) = contour.ContourImageSequence
            k = places[image.ReferencedSOPInstanceUID, image.get("ReferencedFrameNumber")]
            assert image.ReferencedSOPClassUID == known[k].sop_class
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            points = np.array(contour.ContourData, float).reshape(-1, 3) - known[k].position
            assert contour.NumberOfContourPoints == len(points)
            row, column = known[k].steps
            normal = np.cross(row, column) / np.linalg.norm(np.cross(row, column))
            assert np.abs(points @ normal).max() < 1e-3  # in the plane of its own image
            pixels = np.stack([points @ row / (row @ row), points @ column / (column @ column)], axis=-1)
            counts[:, :, k] += polygon2mask(counts.shape[:2], pixels)
        yield int(region.ReferencedROINumber), counts


def read_back(dataset: Dataset, series: DicomSeries) -> NDArray[np.int64]:
    total = np.zeros(1, np.int64)
    for number, counts in rasterise(dataset, series):
        assert counts.max() <= 1  # no voxel is in two contours of a region
        total = total + number * counts
    return total

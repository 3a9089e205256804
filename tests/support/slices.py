"""Where the slices of a series lie, by pydicom and by nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread

from tomoseg.data.volume import DicomSeries


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice.

    Attributes:
        name: SOPInstanceUID, and the number of the frame in a multi-frame file.
        sop_class: SOPClassUID.
        size: number of (columns, rows).
        position: (3,) LPS mm, centre of the first pixel.
        steps: (2, 3) LPS mm, to the next column and to the next row.
    """

    name: tuple[str, int | None]
    sop_class: str
    size: tuple[int, int]
    position: NDArray[np.float64]
    steps: NDArray[np.float64]


def read_slices(series: DicomSeries) -> list[Slice]:
    """Return the slices in the order of the series."""
    found = []
    for frame in series.frames:
        header = dcmread(frame.path, stop_before_pixels=True)
        plane, orientation, measures, number = header, header, header, None
        if "PerFrameFunctionalGroupsSequence" in header:
            number = frame.number
            group = header.PerFrameFunctionalGroupsSequence[number - 1]
            plane, orientation = group.PlanePositionSequence[0], group.PlaneOrientationSequence[0]
            measures = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        cosines = np.array(orientation.ImageOrientationPatient, float).reshape(2, 3)
        found.append(
            Slice(
                name=(str(header.SOPInstanceUID), number),
                sop_class=str(header.SOPClassUID),
                size=(int(header.Columns), int(header.Rows)),
                position=np.array(plane.ImagePositionPatient, float),
                steps=cosines * np.array(measures.PixelSpacing[::-1], float)[:, None],
            )
        )
    return found

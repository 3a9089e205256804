"""Functional groups of multi-frame DICOM images, which say for each frame where it lies and what its values mean.

https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_C.7.6.16.html
"""

from __future__ import annotations

from typing import NamedTuple

from pydicom import Dataset

from tomoseg.data.dicom.file_reader import correct


class FrameGroups(NamedTuple):
    """The functional groups of one frame; what a group does not say, the header says for all frames.

    Attributes:
        position: of its first pixel, `ImagePositionPatient`.
        orientation: of its rows and columns, `ImageOrientationPatient`.
        measures: `PixelSpacing` and `SliceThickness`.
        values: `RescaleSlope` and `RescaleIntercept`.
        content: `DimensionIndexValues`.
    """

    position: Dataset
    orientation: Dataset
    measures: Dataset
    values: Dataset
    content: Dataset

    @classmethod
    def of_single_frame(cls, header: Dataset) -> FrameGroups:
        """Return the groups of an image of one frame, whose header has all of it."""
        return cls(header, header, header, header, header)


# sequences of the groups, in the order of the fields
KEYWORDS = (
    "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence",
    "FrameContentSequence",
)  # fmt: skip


def read_functional_groups(header: Dataset) -> list[FrameGroups]:
    """Return the functional groups of each frame, a frame's own before the shared ones; none if it has no frames."""
    shared = _first(header, "SharedFunctionalGroupsSequence") or Dataset()
    return [
        FrameGroups(*(_first(own, keyword) or _first(shared, keyword) or header for keyword in KEYWORDS))
        for own in header.get("PerFrameFunctionalGroupsSequence") or ()
    ]


def _first(dataset: Dataset, keyword: str) -> Dataset | None:
    sequence = dataset.get(keyword)
    return correct(sequence[0]) if sequence else None

"""One reader of the functional groups: a frame's own before the shared ones before the header's elements."""

from __future__ import annotations

import pytest
from pydicom import Dataset

from tomoseg.data.dicom.functional_groups import FrameGroups, read_functional_groups


def measures(spacing: float) -> Dataset:
    item, group = Dataset(), Dataset()
    item.PixelSpacing = [spacing, spacing]
    group.PixelMeasuresSequence = [item]
    return group


@pytest.mark.parametrize(
    ("own", "shared", "header", "expected"),
    [
        (measures(1), measures(2), 3, 1),
        (Dataset(), measures(2), 3, 2),
        (Dataset(), Dataset(), 3, 3),
        (Dataset(), None, 3, 3),
    ],
    ids=["own", "shared", "header", "nothing is shared"],
)
def test_a_frame_is_described_by_the_nearest_group(
    own: Dataset, shared: Dataset | None, header: float, expected: float
) -> None:
    image = Dataset()
    image.PixelSpacing = [header, header]
    image.PerFrameFunctionalGroupsSequence = [own, measures(9)]
    if shared is not None:
        image.SharedFunctionalGroupsSequence = [shared]
    first, second = read_functional_groups(image)
    assert first.measures.PixelSpacing[0] == expected
    assert second.measures.PixelSpacing[0] == 9
    assert first.position is image


def test_an_image_without_frames_has_no_groups() -> None:
    image = Dataset()
    assert read_functional_groups(image) == []
    assert FrameGroups.of_single_frame(image).values is image

"""Segmentations in an archive that hold labels of the served bundles, known by their segments' names and codes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from tomoseg.core.errors import VolumeError, errors_as, import_package
from tomoseg.core.quiet import suppress_warnings
from tomoseg.data.dicom.file_reader import read_dataset
from tomoseg.data.dicom.reference import read_source
from tomoseg.data.label_mapping import LabelMapping
from tomoseg.data.labels import TISSUE, Code, Label, same_name
from tomoseg.data.volume import Volume


@dataclass(frozen=True)
class ArchivedLabels:
    """One DICOM Segmentation.

    Attributes:
        series_uid, study_uid: where it is in the archive.
        image_id: SeriesInstanceUID of the image that it refers to; empty where it refers to none.
        when: date and time of its content, which sort as texts.
        names: its segments' names by the number of the label that each is, from 1 on in the order of the served labels;
            empty where it has no label of a bundle.
    """

    series_uid: str
    study_uid: str
    image_id: str
    when: str
    names: Mapping[int, str]


def describe_labels(metadata: Dataset, known: Sequence[Label]) -> ArchivedLabels:
    """Return what a segmentation holds.

    Args:
        metadata: of one of its instances, without pixels.
        known: labels of the served bundles.
    """
    references = metadata.get("ReferencedSeriesSequence") or ()
    names = {}
    for segment in metadata.get("SegmentSequence") or ():
        name = str(segment.get("SegmentLabel", ""))
        if (number := _find_number(name, segment, known)) is not None:
            names[number] = name
    return ArchivedLabels(
        str(metadata.SeriesInstanceUID), str(metadata.StudyInstanceUID),
        str(references[0].get("SeriesInstanceUID", "")) if references else "",
        f"{metadata.get('ContentDate', '')} {metadata.get('ContentTime', '')}", names,
    )  # fmt: skip


def newest(found: Iterable[ArchivedLabels]) -> dict[str, ArchivedLabels]:
    """Return the newest labels of each image; those of other programs' labels do not count."""
    return {one.image_id: one for one in sorted(found, key=lambda one: one.when) if one.names and one.image_id}


def read_labels(path: Path, image: Volume, names: Mapping[int, str]) -> NDArray[np.uint16]:
    """Read a segmentation on the grid of its image; segments of other names are background.

    It is read by the images that its frames refer to: highdicom beside MONAI Label is too old to place them by their
    positions.

    Args:
        path: the segmentation.
        image: read from DICOM.
        names: names of segments by the number of the label that each becomes.

    Returns:
        (I, J, K) numbers.

    Raises:
        VolumeError: it is damaged, its segments overlap, or its frames do not refer to the image's.
    """
    highdicom: Any = import_package("highdicom", "highdicom")
    source = read_source(path, image.series, image.grid.shape)
    instances = [one.instance for one in source.references if one is not None]
    what = f"{path.name}: cannot be read as labels of its image that do not overlap"
    # highdicom raises errors of any kind for damage, overlaps and frames of other images
    with errors_as(VolumeError, what, Exception), suppress_warnings():
        dataset = highdicom.seg.Segmentation.from_dataset(read_dataset(path, pixels=True), copy=False)
        frames = dataset.get_pixels_by_source_instance(
            instances, combine_segments=True, ignore_spatial_locations=True, assert_missing_frames_are_empty=True
        )
        segments = {str(one.SegmentLabel): int(one.SegmentNumber) for one in dataset.SegmentSequence}
    labels = np.ascontiguousarray(frames.transpose(2, 1, 0))
    if labels.shape != image.grid.shape:
        raise VolumeError(f"{what}: its frames have another size")
    numbers = {segments[name]: number for number, name in names.items()}
    return LabelMapping(numbers, keep_others=False).apply(labels).astype(np.uint16)


def _find_number(name: str, segment: Dataset, known: Sequence[Label]) -> int | None:
    numbered = list(enumerate(known, start=1))
    by_name = next((number for number, label in numbered if same_name(label.name) == same_name(name)), None)
    if by_name is not None:
        return by_name
    kind = _codes(segment, "SegmentedPropertyTypeCodeSequence")
    types = segment.get("SegmentedPropertyTypeCodeSequence") or ()
    modifiers = _codes(types[0], "SegmentedPropertyTypeModifierCodeSequence") if types else set()
    alike = [
        number
        for number, label in numbered
        if label.kind != TISSUE and kind == _known([label.kind]) and modifiers == _known(label.modifiers)
    ]
    return alike[0] if len(alike) == 1 else None  # of two labels with one code, the name decides


def _codes(dataset: Dataset, keyword: str) -> set[tuple[str, str]]:
    return {
        (str(one.get("CodeValue", "")), str(one.get("CodingSchemeDesignator", "")))
        for one in dataset.get(keyword) or ()
    }


def _known(codes: Iterable[Code]) -> set[tuple[str, str]]:
    return {(code.value, code.scheme) for code in codes}

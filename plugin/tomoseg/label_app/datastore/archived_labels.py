"""Segmentations in an archive that hold labels of the served bundles, known by their segments' names and codes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from tomoseg.data.labels import TISSUE, Code, Label, same_name


@dataclass(frozen=True)
class ArchivedLabels:
    """One DICOM Segmentation.

    Attributes:
        series_uid, study_uid: where it is in the archive.
        image_id: SeriesInstanceUID of the image that it refers to; empty where it refers to none.
        when: date and time of its content, which sort as texts.
        names: its segments' names by the number of the label that each is, from 1 on as they are served; empty where it
            has no label of a bundle.
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

"""Label maps as DICOM Segmentation objects, through highdicom.

highdicom takes one multi-frame image at most, and only if all its frames share their orientation. So each slice is
shown to it as an image of its own, in place of whose UID stands the slice's number, and the references are put right
afterwards.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.uid import CTImageStorage
from pydicom.valuerep import DSfloat

from tomoseg.core.errors import OutputError, import_package
from tomoseg.data.dicom.reference import Source, adopt, identify, make_uid, read_source, refer_to, save, text
from tomoseg.data.labels import Code, Label
from tomoseg.data.segments import LabelMap, find_segments

# https://dicom.nema.org/medical/dicom/current/output/chtml/part16/sect_CID_7162.html
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
MAX_SHORT_TEXT = 1024  # characters of DICOM's VR ST
SRGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def write_dicom_seg(path: Path, found: LabelMap, labelmap: bool = False) -> Dataset:
    """Write a label map as a DICOM Segmentation of the scan's own slices, atomically, and return it.

    Each slice that holds a segment becomes a frame at the slice's own position, so that tilted and oblique series
    need no resampling. A label that does not occur is a segment without frames; if none occurs, each segment has one
    frame without a pixel, for a file without frames would not be valid.

    Segments of a binary file are numbered from 1 without gaps, as highdicom demands: they are the values of the labels
    if those are 1, 2, ..., and else follow them in their order. In a label map file they are the values.

    Args:
        path: ends in .dcm.
        found: the labels; some of the table may not occur.
        labelmap: one frame a slice that holds the values (Label Map Segmentation, in the standard since 2024), in place
            of one for each segment. Labels may not overlap.

    Raises:
        OutputError: the name has another suffix, the labels fit neither series nor table or overlap where they may
            not, or the file cannot be written.
        VolumeError: the series is no longer there.
        MissingPackageError: highdicom is not installed.
    """
    highdicom = import_package("highdicom", "highdicom")
    labels, algorithm = found.labels, found.algorithm
    maker = algorithm if found.person is None else found.person or "a person"
    if labelmap and labels.ndim == 4:
        raise OutputError(f"{path}: a label map segmentation cannot hold labels that overlap. Write a binary one")
    if labelmap and not hasattr(highdicom.seg.SegmentationTypeValues, "LABELMAP"):
        raise OutputError(f"{path}: expected a newer highdicom than {highdicom.__version__}. Write a binary one")
    with disable_value_validation():  # the patient's data are copied as they stand
        source = read_source(path, found.series, labels.shape[-3:])
        segments = find_segments(path, labels, source.shape, found.label_table)
        values = [segment.label.value for segment in segments]
        kind = "LABELMAP" if labelmap else "BINARY"
        numbers = values if labelmap else list(range(1, len(values) + 1))
        labelled = zip(segments, numbers, strict=True)
        descriptions = [
            _describe(one.label, number, found, make_uid(f"{kind} segment {number}", found, source))
            for one, number in labelled
        ]
        frames = _frames(labels, values, numbers)
        slices = range(len(frames)) if frames.any() else range(1)
        dataset = highdicom.seg.Segmentation(
            source_images=[_image(source, index) for index in slices],
            pixel_array=frames[: len(slices)],
            segmentation_type=kind,
            segment_descriptions=descriptions,
            content_label="SEGMENTATION",
            content_description=text(f"Segmentation by {maker} {'' if found.person else found.version}"),
            omit_empty_frames=bool(frames.any()),
            series_description=text(f"Segmentation by {maker}"),
            **identify(kind, found, source),
        )
        adopt(dataset, source)
        dataset.SeriesDate, dataset.SeriesTime = dataset.ContentDate, dataset.ContentTime
        creator = text(maker.replace("=", " "), 63) if found.person else "tomoseg" if found.person is None else ""
        dataset.ContentCreatorName = creator if "^" in creator or not creator else f"{creator}^"
        replaced = [one.instance for one in found.replaces if one.sop_class == dataset.SOPClassUID]
        if replaced:  # no attribute of a Segmentation refers to an earlier one
            dataset.DerivationDescription = f"Replaces {', '.join(replaced)}"[:MAX_SHORT_TEXT]
        _note_compression(dataset, source.header)
        _refer(dataset, source)
        save(dataset, path)
    return cast(Dataset, dataset)


def _frames(
    labels: NDArray[np.unsignedinteger[Any]], values: Sequence[int], numbers: Sequence[int]
) -> NDArray[np.unsignedinteger[Any]]:
    """Return the labels with their segments' numbers as highdicom wants them, (K, J, I) or (K, J, I, segment)."""
    if labels.ndim == 4:
        absent = np.zeros((), np.uint8)
        masks = [labels[value - 1] if value <= len(labels) else absent for value in values]
        # the segments lie one after the other in memory, for highdicom takes one at a time
        stacked = np.stack([np.broadcast_to(mask, labels.shape[1:]).T != 0 for mask in masks]).astype(np.uint8)
        return np.moveaxis(stacked, 0, -1)
    lookup = np.zeros(max(values) + 1, np.min_scalar_type(max(numbers)))
    lookup[list(values)] = numbers
    return np.ascontiguousarray(lookup[labels.T])


def _image(source: Source, index: int) -> Dataset:
    """Return a slice as a CT image on its own; its UID is its index."""
    image = refer_to(source, CTImageStorage, str(index), source.series)
    image.FrameOfReferenceUID = source.frame_of_reference
    image.Modality = str(source.header.get("Modality") or "CT")
    image.Columns, image.Rows, _ = source.shape
    image.ImagePositionPatient = source.positions[index].tolist()
    image.ImageOrientationPatient = source.orientation.tolist()
    # in at most 16 characters
    image.PixelSpacing = [DSfloat(one, auto_format=True) for one in source.spacing]
    image.SliceThickness = DSfloat(source.thickness, auto_format=True)
    if source.gap > 0:
        image.SpacingBetweenSlices = DSfloat(source.gap, auto_format=True)
    return image


def _note_compression(dataset: Dataset, header: Dataset) -> None:
    """Say whether the scan was compressed with loss; older highdicom rejects scans that do not say how much."""
    dataset.LossyImageCompression = "01" if str(header.get("LossyImageCompression") or "") == "01" else "00"
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if dataset.LossyImageCompression == "01" and header.get(keyword):
            dataset.add(header[keyword])


def _describe(label: Label, number: int, found: LabelMap, uid: str) -> Dataset:
    import highdicom as hd

    name = text(label.name, default=f"Label {label.value}")
    made_by, found_by = text(found.algorithm, default="" if found.person is not None else "tomoseg"), None
    if made_by:
        family, version = concept(ARTIFICIAL_INTELLIGENCE), text(found.version, default="unknown")
        found_by = hd.AlgorithmIdentificationSequence(made_by, family, version)
    description: Dataset = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=concept(label.category),
        segmented_property_type=concept(label.kind),
        algorithm_type="AUTOMATIC" if found.person is None else "SEMIAUTOMATIC" if made_by else "MANUAL",
        algorithm_identification=found_by,
        tracking_uid=uid,
        tracking_id=name,
    )
    if label.value in found.expected_dice:
        description.SegmentDescription = f"Expected Dice {found.expected_dice[label.value]}"
    description.RecommendedDisplayCIELabValue = list(hd.color.CIELabColor(*_cielab(label.colour)).value)
    if label.modifiers:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [concept(code) for code in label.modifiers]
    return description


def _cielab(colour: tuple[int, int, int]) -> NDArray[np.float64]:
    """Return an sRGB colour, 0 to 255, in CIELab, as newer highdicom does (CIE 15; IEC 61966-2-1)."""
    scaled = np.array(colour) / 255
    linear = np.where(scaled > 0.04045, ((scaled + 0.055) / 1.055) ** 2.4, scaled / 12.92)
    x, y, z = np.clip(SRGB_TO_XYZ @ linear / SRGB_TO_XYZ.sum(axis=1), 0, 1)
    x, y, z = (np.cbrt(one) if one > (6 / 29) ** 3 else one * 841 / 108 + 4 / 29 for one in (x, y, z))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def concept(code: Code) -> Any:
    """Return a code as highdicom takes it."""
    import highdicom as hd

    return hd.sr.CodedConcept(code.value, code.scheme, text(code.meaning, default=code.value))


def _refer(dataset: Dataset, source: Source) -> None:
    """Put the images' own UIDs in the place of the slices' numbers."""
    groups = dataset.PerFrameFunctionalGroupsSequence
    derivations = [group.DerivationImageSequence[0] for group in groups]
    # the segments of a slice share one item
    items = {id(derivation.SourceImageSequence[0]): derivation.SourceImageSequence[0] for derivation in derivations}
    references = {key: source.references[int(item.ReferencedSOPInstanceUID)] for key, item in items.items()}
    for group, derivation in zip(groups, derivations, strict=True):
        reference = references[id(derivation.SourceImageSequence[0])]
        if reference is None:
            group.DerivationImageSequence = []
        else:
            derivation.SourceImageSequence[0].update(reference.item())
    files = [replace(one, frames=()) for one in source.instances()]
    dataset.SourceImageSequence = [one.item() for one in files]
    dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence = [one.item() for one in files]

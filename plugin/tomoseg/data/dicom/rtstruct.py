"""Label maps as RT Structure Sets: the outline of each label in each slice of its scan."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.config import disable_value_validation
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import UID, ImplicitVRLittleEndian, RTStructureSetStorage

from tomoseg.core.errors import OutputError
from tomoseg.core.version import __version__
from tomoseg.data.dicom.contours import trace_contours
from tomoseg.data.dicom.reference import Reference, Source, adopt, code_item, identify, read_source, save, text
from tomoseg.data.dicom.slices import MAX_DEVIATION
from tomoseg.data.geometry import Grid
from tomoseg.data.labels import Label
from tomoseg.data.segments import LabelMap, Segment, find_segments, mask_of
from tomoseg.data.volume import LPS_TO_RAS

STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # retired, and still what everybody writes for a study
ANATOMY = ("123037004", "91723000")  # SNOMED CT's "anatomical structure", in both of its codes
CONTOUR_DATA = Tag("ContourData")
COORDINATE_DECIMALS = 4  # of a mm; leaves a number of 16 characters eleven digits before the point


def write_rtstruct(path: Path, found: LabelMap) -> None:
    """Write a label map as an RT Structure Set of the scan's own slices, atomically.

    The outlines lie in the planes of the scan's images, half-way between a voxel inside and one outside: the centres
    inside the polygons are the voxels of the label, no more and no less. Holes are joined to the outline by a channel
    without width. A label that does not occur is a region without contours. Regions are numbered as the labels are.

    Args:
        path: ends in .dcm.
        found: the labels; some of the table may not occur.

    Raises:
        OutputError: the name has another suffix, the labels fit neither series nor table, the grid is not that of the
            series, or the file cannot be written.
        VolumeError: the series is no longer there.
    """
    with disable_value_validation():  # the patient's data are copied as they stand
        source = read_source(path, found.series, found.labels.shape[-3:])
        segments = find_segments(path, found.labels, found.grid.shape, found.label_table)
        steps = _in_plane_steps(path, found.grid, source)
        made_by = text(f"{found.algorithm} {found.version}")
        dataset = _describe(source, found, made_by)
        dataset.StructureSetROISequence = [_region(one.label, source, made_by) for one in segments]
        dataset.ROIContourSequence = [_outline(found.labels, one, source, steps) for one in segments]
        dataset.RTROIObservationsSequence = [_observe(one.label) for one in segments]
        save(dataset, path)


def _in_plane_steps(path: Path, grid: Grid, source: Source) -> NDArray[np.float64]:
    """Return the steps from pixel to pixel along I and J, (3, 2) LPS mm.

    Slices may lie a little off the even spacing of the grid. The contours follow the slices, in whose planes they
    have to lie.
    """
    affine = LPS_TO_RAS @ grid.affine  # its own inverse
    positions = affine[:3, 3] + np.outer(np.arange(grid.shape[2]), affine[:3, 2])
    deviation = float(np.linalg.norm(positions - source.positions, axis=1).max())
    if deviation > max(min(grid.spacing) / 2, MAX_DEVIATION * grid.spacing[2] + 1e-3):
        raise OutputError(f"{path}: expected the grid of the series, got one that is {deviation:.3g} mm off it")
    return np.asarray(affine[:3, :2])


def _describe(source: Source, found: LabelMap, made_by: str) -> FileDataset:
    """Return all but the regions."""
    now, algorithm = datetime.now(), found.algorithm
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    known = identify("RTSTRUCT", found, source)
    meta.MediaStorageSOPInstanceUID = UID(known["sop_instance_uid"])
    # explicit lengths of decimal strings end at 64 KiB, which a large contour exceeds
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset = FileDataset("", {}, preamble=bytes(128), file_meta=meta)
    adopt(dataset, source)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.InstanceCreationDate = dataset.StructureSetDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = dataset.StructureSetTime = now.strftime("%H%M%S")
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesInstanceUID = known["series_instance_uid"]
    dataset.SeriesNumber, dataset.InstanceNumber = known["series_number"], known["instance_number"]
    dataset.SeriesDescription = text(f"Contours by {algorithm}")
    dataset.OperatorsName = None
    dataset.Manufacturer = "tomoseg"
    dataset.ManufacturerModelName = text(algorithm, default="tomoseg")
    dataset.SoftwareVersions = [f"tomoseg {__version__}", made_by]
    dataset.StructureSetLabel = text(algorithm, 16, "tomoseg")
    dataset.StructureSetName = made_by
    dataset.ApprovalStatus = "UNAPPROVED"
    if before := [one for one in found.replaces if one.sop_class == RTStructureSetStorage]:
        dataset.PredecessorStructureSetSequence = [Reference(one.sop_class, one.instance).item() for one in before]
    dataset.ReferencedFrameOfReferenceSequence = [_refer(source)]
    return dataset


def _refer(source: Source) -> Dataset:
    """Return the frame of reference, in it the study, in it the series, in it the images."""
    series = Dataset()
    series.SeriesInstanceUID = source.series
    series.ContourImageSequence = [one.item() for one in source.instances()]
    study = Reference(STUDY_CLASS, source.study).item()
    study.RTReferencedSeriesSequence = [series]
    reference = Dataset()
    reference.FrameOfReferenceUID = source.frame_of_reference
    reference.RTReferencedStudySequence = [study]
    return reference


def _region(label: Label, source: Source, made_by: str) -> Dataset:
    item = Dataset()
    item.ROINumber, item.ReferencedFrameOfReferenceUID = label.value, source.frame_of_reference
    item.ROIName = text(label.roi_name or label.name, default=f"Label {label.value}")
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = made_by
    return item


def _outline(
    labels: NDArray[np.unsignedinteger[Any]], segment: Segment, source: Source, steps: NDArray[np.float64]
) -> Dataset:
    item = Dataset()
    item.ReferencedROINumber, item.ROIDisplayColor = segment.label.value, list(segment.label.colour)
    if segment.box is None:
        return item
    corner = [part.start for part in segment.box]
    mask = np.ascontiguousarray(mask_of(labels, segment.label.value, segment.box).transpose(2, 0, 1))
    item.ContourSequence = [
        _contour(source.positions[k] + (points + corner[:2]) @ steps.T, source.references[k])
        for k, plane in enumerate(mask, start=corner[2])
        if plane.any()
        for points in trace_contours(plane)
    ]
    return item


def _contour(points: NDArray[np.float64], reference: Reference | None) -> Dataset:
    """Return a closed polygon, (N, 3) LPS mm, in an image, if there is one at its place."""
    item = Dataset()
    if reference is not None:
        item.ContourImageSequence = [reference.item()]
    item.ContourGeometricType = "CLOSED_PLANAR"
    item.NumberOfContourPoints = len(points)
    numbers = (points.round(COORDINATE_DECIMALS) + 0.0).ravel().tolist()  # adding 0 turns -0 into 0
    data = "\\".join(map(repr, numbers)).encode()
    data += b" " * (len(data) % 2)
    # pydicom would make an object of each of these numbers, which takes far longer than all the rest
    item[CONTOUR_DATA] = RawDataElement(CONTOUR_DATA, "DS", len(data), data, 0, True, True)
    return item


def _observe(label: Label) -> Dataset:
    """Return what a region means."""
    kind = code_item(label.kind)
    if label.modifiers:
        kind.SegmentedPropertyTypeModifierCodeSequence = [code_item(code) for code in label.modifiers]
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = label.value
    item.SegmentedPropertyCategoryCodeSequence = [code_item(label.category)]
    item.RTROIIdentificationCodeSequence = [kind]
    item.RTROIInterpretedType = "ORGAN" if label.category.value in ANATOMY else ""
    item.ROIInterpreter = ""
    return item

"""Volumes of labels as a DICOM measurement report (TID 1500), through highdicom, beside the Segmentation it refers to.

https://dicom.nema.org/medical/dicom/current/output/chtml/part16/chapter_A.html#sect_TID_1500
"""

from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.uid import Comprehensive3DSRStorage, generate_uid

from tomoseg.core.errors import import_package
from tomoseg.data.dicom.reference import Source, adopt, identify, read_source, refer_to, save, text
from tomoseg.data.dicom.seg_writer import concept, write_dicom_seg
from tomoseg.data.labels import Code
from tomoseg.data.segments import LabelMap, Segment, find_segments, mask_of

REPORT = Code("126000", "DCM", "Imaging Measurement Report")
VOLUME = Code("118565006", "SCT", "Volume")
EXPECTED_DICE = Code("expected_dice", "99TOMOSEG", "Expected Dice coefficient")  # no scheme has one
NO_UNITS = Code("1", "UCUM", "no units")
CUBIC_CENTIMETRE = Code("cm3", "UCUM", "cubic centimeter")
DEVICE = Code("121007", "DCM", "Device")
# https://dicom.nema.org/medical/dicom/current/output/chtml/part16/sect_CID_100.html
PROCEDURES = {
    "CT": Code("25045-6", "LN", "CT unspecified body region"),
    "MR": Code("25056-3", "LN", "MRI unspecified body region"),
}


def write_dicom_sr(path: Path, found: LabelMap, segmentation: Path) -> None:
    """Write volume and expected Dice of each label as a measurement report, and the Segmentation that it refers to.

    Args:
        path: of the report, ends in .dcm.
        found: the labels; one that does not occur has a volume of 0.
        segmentation: path of the Segmentation, ends in .dcm.

    Raises:
        OutputError, VolumeError, MissingPackageError: as for `write_dicom_seg`.
    """
    hd: Any = import_package("highdicom", "highdicom")
    source = read_source(path, found.series, found.labels.shape[-3:])
    seg = write_dicom_seg(segmentation, found)
    with disable_value_validation():  # the patient's data are copied as they stand
        segments = find_segments(path, found.labels, source.shape, found.label_table)
        algorithm, version = text(found.algorithm, default="tomoseg"), text(found.version, default="unknown")
        report = hd.sr.MeasurementReport(
            observation_context=_observer(hd, algorithm),
            procedure_reported=concept(PROCEDURES[found.series.modality if found.series else "CT"]),
            imaging_measurements=[
                _measure(hd, found, one, _refer(hd, seg, item, source), item, (algorithm, version))
                for one, item in zip(segments, seg.SegmentSequence, strict=True)
            ],
            title=concept(REPORT),
        )
        evidence = [refer_to(source, str(seg.SOPClassUID), str(seg.SOPInstanceUID), str(seg.SeriesInstanceUID))]
        evidence += [refer_to(source, one.sop_class, one.instance, source.series) for one in source.instances()]
        earlier = [one for one in found.replaces if one.sop_class == Comprehensive3DSRStorage]
        dataset = hd.sr.Comprehensive3DSR(
            evidence=evidence,
            content=report[0],
            series_description=text(f"Measurements by {algorithm}"),
            is_complete=True,
            **identify("SR", found, source),
            previous_versions=[refer_to(source, one.sop_class, one.instance, one.series) for one in earlier] or None,
        )
        adopt(dataset, source)
        del dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator  # a report has no place
        dataset.SeriesDate, dataset.SeriesTime = dataset.ContentDate, dataset.ContentTime
        save(dataset, path)


def _observer(hd: Any, algorithm: str) -> Any:
    attributes = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=["device", algorithm]), name="tomoseg", manufacturer_name="tomoseg",
        model_name=algorithm,
    )  # fmt: skip
    context = hd.sr.ObserverContext(observer_type=concept(DEVICE), observer_identifying_attributes=attributes)
    return hd.sr.ObservationContext(observer_device_context=context)


def _refer(hd: Any, seg: Dataset, item: Dataset, source: Source) -> Any:
    origin = hd.sr.SourceSeriesForSegmentation(source.series)
    return hd.sr.ReferencedSegment(seg.SOPClassUID, seg.SOPInstanceUID, item.SegmentNumber, source_series=origin)


def _measure(hd: Any, found: LabelMap, segment: Segment, region: Any, item: Dataset, made_by: tuple[str, str]) -> Any:
    """Return the measurements of one label, whose segment the item describes and the region refers to."""
    label, box = segment.label, segment.box
    voxels = 0 if box is None else int(mask_of(found.labels, label.value, box).sum())
    volume = round(voxels * found.grid.voxel_volume_ml, 6)
    measured = [(VOLUME, volume, CUBIC_CENTIMETRE)]
    if (dice := found.calibrated_dice.get(label.value)) is not None:
        measured.append((EXPECTED_DICE, round(dice, 3), NO_UNITS))
    site = hd.sr.FindingSite(concept(label.kind), laterality=concept(label.side)) if label.side else None
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(item.TrackingUID, item.TrackingID),
        referenced_segment=region,
        finding_category=concept(label.category),
        finding_type=concept(label.kind),
        finding_sites=None if site is None else [site],
        algorithm_id=hd.sr.AlgorithmIdentification(*made_by),
        measurements=[hd.sr.Measurement(concept(name), value, concept(unit)) for name, value, unit in measured],
    )

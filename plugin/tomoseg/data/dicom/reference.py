"""What every DICOM result owes the series that it was made from: the patient, the study, and references to its images.

Values of the patient and the study are copied without a check against the standard: a result with another patient's
number than its scan would never be found. No error contains them.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, __version_info__
from pydicom.config import disable_value_validation
from pydicom.uid import generate_uid

from tomoseg.core.errors import OutputError, VolumeError, errors_as
from tomoseg.core.files import atomic_file
from tomoseg.core.notes import take_note
from tomoseg.core.quiet import suppress_warnings
from tomoseg.core.version import __version__
from tomoseg.data.dicom.file_reader import read_dataset
from tomoseg.data.dicom.functional_groups import FrameGroups, read_functional_groups
from tomoseg.data.formats import has_suffix
from tomoseg.data.labels import Code
from tomoseg.data.segments import LabelMap
from tomoseg.data.volume import DicomSeries, by

# what makes `save_as` write the preamble and all of the file's meta information; pydicom 3 renamed it
WHOLE_FILE = {"enforce_file_format": True} if int(__version_info__[0]) >= 3 else {"write_like_original": False}
SUFFIXES = (".dcm",)
UTF_8 = "ISO_IR 192"  # holds all characters of the scan's own character set
SERIES_STEP = 1000
SERIES_OFFSETS = {"BINARY": 1000, "LABELMAP": 1000, "RTSTRUCT": 20_000, "SR": 40_000}
MAX_INTEGER_STRING = 2**31 - 1  # of an integer string
# must be there, and may be empty
REQUIRED_KEYWORDS = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "ReferringPhysicianName", "StudyID",
)  # fmt: skip
OPTIONAL_KEYWORDS = (
    "IssuerOfPatientID", "PatientAge", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "StudyDescription", "ClinicalTrialSponsorName", "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription",
)  # fmt: skip
EQUIPMENT_KEYWORDS = (
    "Manufacturer", "InstitutionName", "StationName", "ManufacturerModelName", "DeviceSerialNumber",
    "SoftwareVersions",
)  # fmt: skip
# https://dicom.nema.org/medical/dicom/current/output/chtml/part16/sect_CID_7005.html
ACQUISITION_EQUIPMENT = Code("109101", "DCM", "Acquisition Equipment")
HEADER_KEYWORDS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "FrameOfReferenceUID",
    "PositionReferenceIndicator", "Modality", "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "SliceThickness", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod", *REQUIRED_KEYWORDS,
    *OPTIONAL_KEYWORDS, *EQUIPMENT_KEYWORDS,
]  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """What a result calls an image: its SOP class, its SOP instance, and the frames, from 1 on, if it has several."""

    sop_class: str
    instance: str
    frames: tuple[int, ...] = ()

    def item(self) -> Dataset:
        """Return it as an item of a sequence."""
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = self.sop_class, self.instance
        if self.frames:
            item.ReferencedFrameNumber = list(self.frames)
        return item


@dataclass(frozen=True, eq=False)
class Source:
    """The series that a result was made from.

    Attributes:
        header: elements of the first slice's file.
        study, series, frame_of_reference: UIDs.
        references: one for each slice; None where no image is.
        positions: (K, 3) LPS mm, centre of each slice's first pixel.
        orientation: (6,) directions, LPS, of a row and of a column.
        spacing: mm between neighbouring (rows, columns).
        thickness, gap: mm, of a slice and between the centres of neighbouring ones along their normal.
    """

    header: Dataset
    study: str
    series: str
    frame_of_reference: str
    references: tuple[Reference | None, ...]
    positions: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: tuple[float, float]
    thickness: float
    gap: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows and slices: the shape of its volume."""
        return int(self.header.Columns), int(self.header.Rows), len(self.references)

    def instances(self) -> Iterator[Reference]:
        """Yield a reference to each file and its frames, in the order of the slices."""
        frames: dict[tuple[str, str], list[int]] = {}
        for one in filter(None, self.references):
            frames.setdefault((one.sop_class, one.instance), []).extend(one.frames)
        return (Reference(*file, tuple(sorted(found))) for file, found in frames.items())


def read_source(path: Path, series: DicomSeries | None, shape: Sequence[int]) -> Source:
    """Read the headers of a series again, for a result.

    Args:
        path: of the result.
        series: what the scan was read from; None if that is no DICOM series.
        shape: of the result's labels, (I, J, K).

    Raises:
        VolumeError: a file of the series is gone or has changed.
        OutputError: there is no series, the result's name does not end in .dcm, or labels of this shape are not the
            series'.
    """
    if series is None:
        raise OutputError(f"{path}: expected a scan read from DICOM, to whose series it refers. Use nifti or nrrd")
    files: dict[Path, tuple[Dataset, list[FrameGroups]]] = {}
    planes = []
    there = dict(zip(series.indices or range(len(series.frames)), series.frames, strict=True))
    for frame in there.values():
        what = f"{frame.path}: its header can no longer be read, as it could with the scan"
        with errors_as(VolumeError, what, Exception):  # pydicom's parsers, on a file that has changed
            if frame.path not in files:
                with disable_value_validation(), suppress_warnings():  # whose remarks quote the patient's data
                    found = read_dataset(frame.path, HEADER_KEYWORDS)
                    found.decode()  # into text, for the result has another character set
                if not found.get("SeriesInstanceUID"):
                    raise ValueError("no DICOM image")
                files[frame.path] = found, read_functional_groups(found)
            if not files[frame.path][0].get("SOPInstanceUID"):
                raise VolumeError(f"{frame.path}: has no SOPInstanceUID, to which a DICOM result refers; write NIfTI")
            planes.append(_plane(*files[frame.path], frame.number))
    referred, places, orientations, spacings, thicknesses = zip(*planes, strict=True)
    references = dict(zip(there, referred, strict=True))
    positions = np.stack([np.interp(range(max(there) + 1), [*there], axis) for axis in np.transpose(places)], axis=1)
    normal = np.cross(orientations[0][:3], orientations[0][3:])
    gap = float(abs((positions[-1] - positions[0]) @ normal) / np.linalg.norm(normal)) / max(len(positions) - 1, 1)
    header, _ = files[series.frames[0].path]
    shown = "".join(str(header.get(keyword, "")) for keyword in (*REQUIRED_KEYWORDS, *OPTIONAL_KEYWORDS))
    if "\ufffd" in shown:
        take_note("letters of the patient's data are replaced that their character set does not allow")
    source = Source(
        header=header,
        study=str(header.get("StudyInstanceUID") or _derived("study", series.uid)),
        series=series.uid,
        frame_of_reference=str(header.get("FrameOfReferenceUID") or _derived("frame of reference", series.uid)),
        references=tuple(references.get(index) for index in range(len(positions))),
        positions=positions,
        orientation=orientations[0],
        spacing=spacings[0],
        thickness=thicknesses[0] or gap or min(spacings[0]),
        gap=gap,
    )
    if not has_suffix(path.name, SUFFIXES):
        raise OutputError(f"{path}: expected a name that ends in .dcm")
    if tuple(shape) != source.shape:
        raise OutputError(f"{path}: expected labels for a series of {by(source.shape)}, got {by(tuple(shape))}")
    return source


def save(dataset: Dataset, path: Path) -> None:
    """Write a result as a whole file, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_file(path) as temporary:
        dataset.save_as(temporary, **WHOLE_FILE)


def adopt(dataset: Dataset, source: Source) -> None:
    """Give a result the patient, the study and the frame of reference of its scan."""
    dataset.SpecificCharacterSet = UTF_8
    for keyword in (*REQUIRED_KEYWORDS, *OPTIONAL_KEYWORDS):
        if keyword in source.header:
            dataset.add(deepcopy(source.header[keyword]))
        elif keyword in REQUIRED_KEYWORDS:
            setattr(dataset, keyword, None)
    dataset.StudyInstanceUID = source.study
    dataset.FrameOfReferenceUID = source.frame_of_reference
    dataset.PositionReferenceIndicator = source.header.get("PositionReferenceIndicator")
    scanner = Dataset()
    for keyword in EQUIPMENT_KEYWORDS:
        if source.header.get(keyword):
            scanner.add(deepcopy(source.header[keyword]))
    if "Manufacturer" in scanner:  # which the standard asks for
        scanner.PurposeOfReferenceCodeSequence = [code_item(ACQUISITION_EQUIPMENT)]
        dataset.ContributingEquipmentSequence = [scanner]


def make_uid(kind: str, found: LabelMap, source: Source) -> str:
    """Return the UID of a part of a result: always the same for one scan and one origin, or a new one without origin.

    Args:
        kind: what the UID is of, e.g. "SEG series"; no two parts of a result share it.
        found: the labels.
        source: the series, whose images count and not its own UID.
    """
    if not found.origin:
        return str(generate_uid())
    images = sorted(one.instance for one in source.instances())
    return str(generate_uid(entropy_srcs=[kind, __version__, found.origin, *images]))


def code_item(code: Code) -> Dataset:
    """Return a code as an item of a sequence."""
    item = Dataset()
    setattr(item, "LongCodeValue" if len(code.value) > 16 else "CodeValue", code.value)
    item.CodingSchemeDesignator, item.CodeMeaning = code.scheme, text(code.meaning, default=code.value)
    return item


def identify(kind: str, found: LabelMap, source: Source) -> dict[str, Any]:
    """Return UIDs, numbers and equipment of a result, by the names of highdicom's arguments.

    The series number follows from the scan's and from how many results there were before.

    Args:
        kind: of the result, one of `SERIES_OFFSETS`.
        found: the labels.
        source: the series.
    """
    try:
        number = int(source.header.get("SeriesNumber") or 0)
    except (TypeError, ValueError):
        number = 0
    number = max(number, 0) + SERIES_OFFSETS[kind] + SERIES_STEP * found.earlier
    versions = (f"tomoseg {__version__}", text(f"{found.algorithm} {found.version}"))
    return {
        "series_instance_uid": make_uid(f"{kind} series", found, source),
        "series_number": min(number, MAX_INTEGER_STRING),
        "sop_instance_uid": make_uid(kind, found, source),
        "instance_number": 1,
        "manufacturer": "tomoseg",
        "manufacturer_model_name": text(found.algorithm, default="tomoseg"),
        "software_versions": tuple(filter(None, versions)),
        "device_serial_number": "0",  # may not be empty, and a program has none
    }


def refer_to(source: Source, sop_class: str, instance: str, series: str) -> Dataset:
    """Return what highdicom takes for an instance of the study; the patient's own data follow in the end."""
    item = Dataset()
    for keyword in REQUIRED_KEYWORDS:  # highdicom rejects values that the standard allows
        setattr(item, keyword, None)
    item.SOPClassUID, item.SOPInstanceUID = sop_class, instance
    item.StudyInstanceUID, item.SeriesInstanceUID = source.study, series
    return item


def text(value: str, limit: int = 64, default: str = "") -> str:
    """Return text as DICOM takes it: in one line, without backslashes, of at most `limit` characters."""
    printable = "".join(char if char.isprintable() and char != "\\" else " " for char in value)
    return " ".join(printable.split())[:limit].strip() or default


def _plane(
    header: Dataset, groups: Sequence[FrameGroups], number: int
) -> tuple[Reference, NDArray[np.float64], NDArray[np.float64], tuple[float, float], float]:
    """Return reference, position, orientation, spacing and thickness of a frame, counted from 1 on, as in `Source`."""
    group = groups[number - 1] if groups else FrameGroups.of_single_frame(header)
    position = np.array(group.position.ImagePositionPatient, np.float64)
    orientation = np.array(group.orientation.ImageOrientationPatient, np.float64)
    rows, columns = (float(part) for part in group.measures.PixelSpacing)
    reference = Reference(str(header.SOPClassUID), str(header.SOPInstanceUID), (number,) if groups else ())
    return reference, position, orientation, (rows, columns), float(group.measures.get("SliceThickness") or 0)


def _derived(kind: str, series: str) -> str:
    """Return a UID that every result of a series shares where the scan has lost its own."""
    return str(generate_uid(entropy_srcs=[kind, series]))

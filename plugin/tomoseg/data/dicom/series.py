"""DICOM series: found by their SeriesInstanceUID, ordered by position, read through pydicom."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom import uid as uids

from tomoseg.core.errors import VolumeError, errors_as, shorten, some
from tomoseg.core.notes import collect_notes
from tomoseg.core.quiet import note_warnings
from tomoseg.data.dicom.file_reader import read_dataset
from tomoseg.data.dicom.functional_groups import FrameGroups, read_functional_groups
from tomoseg.data.dicom.pixels import hash_pixels, read_pixels
from tomoseg.data.dicom.slices import MAX_DEVIATION, MIN_ALIKE, Arrangement, Slice, arrange, choose_phase
from tomoseg.data.scan_files import dicom_files
from tomoseg.data.volume import MAX_COORDINATE_MM, DicomFrame, DicomSeries, SeriesSummary, Volume, make_volume

SINGLE_FRAME = {uids.CTImageStorage, uids.MRImageStorage}
CAPTURE = uids.SecondaryCaptureImageStorage
MULTI_FRAME = {
    uids.EnhancedCTImageStorage, uids.LegacyConvertedEnhancedCTImageStorage, uids.EnhancedMRImageStorage,
    uids.LegacyConvertedEnhancedMRImageStorage,
}  # fmt: skip
# elements that distinguish images at one place
TRAITS = (
    "AcquisitionNumber", "TemporalPositionIdentifier", "TriggerTime", "EchoTime", "InversionTime", "FlipAngle",
    "DiffusionBValue", "ConvolutionKernel", "FrameOfReferenceUID", "SeriesInstanceUID", "ImageType", "ContentTime",
    "InstanceNumber",
)  # fmt: skip
FRAME_TRAITS = ("FrameAcquisitionNumber", "TemporalPositionIndex", "DimensionIndexValues")  # of enhanced images
# and what a copy has in common with them, besides its pixels
COPIED_KEYWORDS = (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept",
    "ModalityLUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", *TRAITS,
)  # fmt: skip
PLACE_KEYWORDS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
# what slices of one series have in common, if each has a SeriesInstanceUID of its own
PLANE_KEYWORDS = ("PatientID", "Modality", "Rows", "Columns", "PixelSpacing", "ImageOrientationPatient")
HEADER_KEYWORDS = [
    "SOPClassUID", "SOPInstanceUID", "PatientID", "Modality", "SeriesDescription", "SeriesNumber", "Rows",
    "Columns", "SamplesPerPixel", "NumberOfFrames", "BitsAllocated", "PixelRepresentation", "StudyDescription",
    "StudyDate", *COPIED_KEYWORDS,
]  # fmt: skip
MAX_SERIES_IN_ERROR = 8


def read_dicom(path: Path, series: str | None = None, phase: str | None = None) -> Volume:
    """Read a CT or MR series.

    Args:
        path: a folder, searched to its depth, or a multi-frame file.
        series: SeriesInstanceUID; may be left out where there is one series only.
        phase: "KEYWORD=VALUE", which its images have; may be left out where there is one image at each place.

    Raises:
        VolumeError: there is none, or several; a file is damaged; or the slices make no regular grid.
    """
    headers = _choose(_group(path), path, series)
    found = arrange_series(headers, path, phase)
    array = read_pixels(found.slices)
    there = {round(one.place): one.frame for one in found.slices if abs(one.place - round(one.place)) < MAX_DEVIATION}
    uid = str(headers[0].SeriesInstanceUID)
    known_by = _describe_study(headers[0])
    series_read = DicomSeries(uid, _modality(headers[0]), tuple(there.values()), tuple(there), known_by)
    volume = make_volume(array, found.grid.affine, str(path), found.notes)
    return replace(volume, series=series_read, warnings=found.warnings)


def series_headers(path: Path, series: str | None = None) -> list[list[Dataset]]:
    """Return the headers of each CT or MR series below a folder, or in a file, that may be a volume; or of this one.

    Raises:
        VolumeError: there is none; a file is damaged.
    """
    groups = _group(path)
    found = list(_volumes(groups).values()) if series is None else []
    return found or [_choose(groups, path, series)]


def arrange_series(headers: Sequence[Dataset], path: Path, phase: str | None = None) -> Arrangement:
    """Return the slices of a series, or of one of its phases, in order, and the grid that they make.

    Raises:
        VolumeError: they make no regular grid, or there is no such phase.
    """
    slices, notes, odd = _slices(headers, path)
    if phase is not None:
        slices = choose_phase(slices, phase, str(path))
    if odd and len(slices) < MIN_ALIKE:
        raise odd[0]
    if len(slices) < 2:
        single = "expected a series of at least two slices, got a single image"
        part = "a single slice of a DICOM series. Give the folder that holds all of it"
        raise VolumeError(f"{path}: {single if path.is_dir() else part}")
    found = arrange(slices, str(path), odd)
    return replace(found, notes=(*notes, *found.notes))


def find_series(paths: Sequence[Path]) -> tuple[dict[SeriesSummary, list[Path]], list[Path]]:
    """Return the files of each CT or MR series that may be a volume, and the files that are damaged."""
    headers: list[Dataset] = []
    damaged: list[Path] = []
    with collect_notes(), note_warnings():  # the reader of a scan repeats them
        for path in paths:
            try:
                headers.append(read_header(path))
            except VolumeError:
                damaged.append(path)
    groups = _by_series(headers)
    damaged += [Path(str(one.filename)) for one in groups.pop("", []) if _is_image(one)]
    return {
        summarise_series(members): [Path(str(one.filename)) for one in members] for members in _volumes(groups).values()
    }, damaged


def read_header(path: Path) -> Dataset:
    """Return the elements of a DICOM file for its kind and its place.

    Raises:
        VolumeError: it is damaged.
    """
    # damaged bytes make pydicom's parsers raise errors of any kind
    with errors_as(VolumeError, f"{path}: a damaged DICOM file", Exception):
        dataset = read_dataset(path, HEADER_KEYWORDS)
        dataset.filename = str(path)
        list(dataset)  # values are decoded when they are asked for: now is the time for errors
        own, outer = str(dataset.get("SOPClassUID", "")), str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    if not own and outer not in {uids.MediaStorageDirectoryStorage, *SINGLE_FRAME, *MULTI_FRAME}:
        raise VolumeError(f"{path}: expected a DICOM file, got something else or a damaged one")
    if not own or outer in SINGLE_FRAME | MULTI_FRAME:
        dataset.SOPClassUID = uids.UID(outer)
    # pydicom takes the end of a file for the end of its elements, wherever it comes
    if _is_image(dataset) and ("Rows" not in dataset or "Columns" not in dataset):
        raise VolumeError(f"{path}: a truncated or damaged DICOM file: its header ends too early")
    return dataset


def _group(path: Path) -> dict[str, list[Dataset]]:
    """Return the headers of all DICOM files below a folder, or of one, by their series."""
    return _by_series(map(read_header, dicom_files(path) if path.is_dir() else [path]))


def _by_series(headers: Iterable[Dataset]) -> dict[str, list[Dataset]]:
    found: dict[str, list[Dataset]] = defaultdict(list)
    for header in headers:
        found[str(header.get("SeriesInstanceUID", ""))].append(header)
    return found


def _volumes(groups: dict[str, list[Dataset]]) -> dict[str, list[Dataset]]:
    """Return what may be volumes: CT and MR images, without localizers and single ones unless there is nothing else.

    Single images of one plane in one folder are together: each slice of a series may have a SeriesInstanceUID.
    """
    images = {uid: [one for one in headers if _is_image(one)] for uid, headers in groups.items()}
    for uid, found in images.items():  # captures of the screen in it are named when it is read
        found += [one for one in groups[uid] if found and _class(one) == CAPTURE and not _is_image(one)]
    images = {uid: found for uid, found in images.items() if found}
    if "" in images:
        raise VolumeError(f"{images[''][0].filename}: a damaged DICOM file: it has no SeriesInstanceUID")
    images = {uid: headers for uid, headers in images.items() if not all(map(_is_localizer, headers))} or images
    several = {uid: headers for uid, headers in images.items() if sum(map(_frames, headers)) > 1}
    planes: dict[tuple[str, ...], list[Dataset]] = defaultdict(list)
    for uid in sorted(images.keys() - several):
        for one in images[uid]:
            folder = str(Path(str(one.filename)).parent)
            planes[folder, *(str(one.get(keyword)) for keyword in PLANE_KEYWORDS)].append(one)
    several |= {str(found[0].SeriesInstanceUID): found for found in planes.values() if len(found) >= MIN_ALIKE}
    return several or images


def _choose(groups: dict[str, list[Dataset]], path: Path, series: str | None) -> list[Dataset]:
    volumes = _volumes(groups)
    if not volumes:
        kinds = sorted({_modality(one) for headers in groups.values() for one in headers})
        raise VolumeError(f"{path}: expected a CT or MR series, got {', '.join(kinds) or 'no DICOM file'}")
    if series is not None and series in volumes:
        return volumes[series]
    listed = some([summarise_series(headers) for headers in volumes.values()], MAX_SERIES_IN_ERROR, "; ")
    if series is not None:
        raise VolumeError(f"{path}: contains no series {series}, but {listed}")
    if len(volumes) > 1:
        raise VolumeError(f"{path}: contains {len(volumes)} series. Choose one with --series UID: {listed}")
    return next(iter(volumes.values()))


def _is_image(header: Dataset) -> bool:
    """Return whether a file is a CT or MR image, or a capture that has the place of one."""
    if _class(header) == CAPTURE:
        return header.get("Modality") in ("CT", "MR") and all(header.get(keyword) for keyword in PLACE_KEYWORDS)
    return _class(header) in SINGLE_FRAME | MULTI_FRAME


def _class(header: Dataset) -> str:
    return str(header.get("SOPClassUID", ""))


def _is_localizer(header: Dataset) -> bool:
    return "LOCALIZER" in (header.get("ImageType") or ())


def _frames(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1) if _class(header) in MULTI_FRAME else 1


def summarise_series(headers: Sequence[Dataset]) -> SeriesSummary:
    """Return a description that distinguishes a series from others."""
    first = headers[0]
    description = shorten(str(first.get("SeriesDescription") or ""), 60)
    images = sum(_frames(alike[0]) for alike in _alike(headers))
    number = str(first.get("SeriesNumber") or "")
    return SeriesSummary(
        str(first.get("SeriesInstanceUID", "")), _modality(first), description, images, number * number.isdecimal()
    )


def _describe_study(header: Dataset) -> str:
    """Return the descriptions of study and series and the date, in one line."""
    year_first = re.sub(r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3", str(header.get("StudyDate") or ""))
    parts = (header.get("StudyDescription"), header.get("SeriesDescription"), year_first)
    return ", ".join(shorten(str(part), 60) for part in parts if part)


def _modality(header: Dataset) -> str:
    """Return "CT" or "MR" of a scan, and what kind of object any other file holds."""
    modality = str(header.get("Modality") or "")
    name = uids.UID(str(header.get("SOPClassUID") or "an unknown kind")).name
    if _is_image(header):
        return modality if modality in ("CT", "MR") else "CT" if "CT" in name.split() else "MR"
    return f"{name} ({modality})" if modality in ("CT", "MR") else modality or name


class _OddImageError(VolumeError):
    """An image that is no slice, such as a capture of the screen."""


def _slices(headers: Sequence[Dataset], path: Path) -> tuple[list[Slice], list[str], list[VolumeError]]:
    """Return each image of a series once, notes on those left out, and why others are no slices."""
    unique = _without_copies(headers)
    notes = []
    if len(unique) < len(headers):
        notes.append(f"left out as copies of other files: {len(headers) - len(unique)}")
    images = [one for one in unique if not _is_localizer(one)]
    if images and len(images) < len(unique):
        notes.append(f"left out as localizers: {len(unique) - len(images)}")
    slices: list[Slice] = []
    odd: list[VolumeError] = []
    for header in images or unique:
        name = str(header.filename)
        # pydicom decodes the elements of sequences only here, and lets anything through
        damaged, missing = f"{name}: a damaged DICOM header", errors_as(VolumeError, name, VolumeError)
        try:
            with errors_as(VolumeError, damaged, Exception), missing:
                slices.extend(_slices_of(header))
        except _OddImageError as error:
            odd.append(VolumeError(f"{name}: {error}"))
    return slices, notes, odd


def _without_copies(headers: Sequence[Dataset]) -> list[Dataset]:
    """Return each image once: copies are equal in their pixels, too."""
    images: list[Dataset] = []
    for alike in _alike(headers):
        by_pixels = {hash_pixels(Path(str(one.filename))): one for one in alike} if len(alike) > 1 else {"": alike[0]}
        images += by_pixels.values()
    return images


def _alike(headers: Sequence[Dataset]) -> list[list[Dataset]]:
    """Return headers together that have one SOPInstanceUID, and are equal in all elements that distinguish images.

    The UID alone is not enough: de-identification often gives the same one to several images.
    """
    found: dict[tuple[str, ...], list[Dataset]] = defaultdict(list)
    counts = Counter(str(one.get("SOPInstanceUID") or "") for one in headers)
    for index, header in enumerate(headers):
        uid = str(header.get("SOPInstanceUID") or "")
        single = not uid or counts[uid] == 1
        told = (str(index),) if single else (str(header.get(keyword)) for keyword in COPIED_KEYWORDS)
        found[uid, *told].append(header)
    return list(found.values())


def _slices_of(header: Dataset) -> Iterator[Slice]:
    path = Path(str(header.filename))
    if "MOSAIC" in (header.get("ImageType") or ()):
        raise VolumeError("a mosaic, which shows many slices in one image. Convert it to a multi-frame image first")
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise _OddImageError(f"expected one value a pixel, got {header.SamplesPerPixel}; it is a colour image")
    if "ModalityLUTSequence" in header:
        raise VolumeError("its values go through a lookup table, expected a slope and an intercept")
    traits = {key: str(header.get(key)) for key in TRAITS if key in header}
    if _class(header) not in MULTI_FRAME:
        if not _is_image(header) or not any(header.get(keyword) for keyword in PLACE_KEYWORDS[:2]):
            raise _OddImageError("has no place: it is a capture of the screen, or of something else")
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise VolumeError(f"expected a single frame in this kind of image, got {header.NumberOfFrames}")
        groups = [FrameGroups.of_single_frame(header)]
    else:
        groups = read_functional_groups(header)
        if len(groups) != _frames(header):
            raise VolumeError(f"expected {_frames(header)} frames to be described, got {len(groups)}")
    for number, group in enumerate(groups, 1):
        reported = {key: str(group.content[key].value) for key in FRAME_TRAITS if key in group.content} | traits
        yield _slice(header, group, DicomFrame(path, number), reported)


def _slice(header: Dataset, group: FrameGroups, frame: DicomFrame, traits: dict[str, str]) -> Slice:
    cosines = _numbers(group.orientation, "ImageOrientationPatient", 6).reshape(2, 3)
    lengths = np.linalg.norm(cosines, axis=1)
    row, column = cosines / np.where(lengths > 0, lengths, 1)[:, None]
    if np.abs(lengths - 1).max() > 0.01 or abs(row @ column) > 1e-3:
        reported = f"expected two unit vectors at right angles, got {cosines.ravel()}"
        raise VolumeError(f"ImageOrientationPatient: {reported}")
    position = _numbers(group.position, "ImagePositionPatient", 3)
    if np.abs(position).max() > MAX_COORDINATE_MM:
        raise VolumeError(f"ImagePositionPatient: expected a place in mm, got {position}")
    spacing = _numbers(group.measures, "PixelSpacing", 2)
    if spacing.min() <= 0 or spacing.max() > MAX_COORDINATE_MM:
        raise VolumeError(f"PixelSpacing: expected two lengths in mm, got {spacing}")
    slope, intercept = (
        float(_numbers(group.values, keyword, 1)[0]) if group.values.get(keyword) is not None else default
        for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    if slope == 0:
        raise VolumeError("RescaleSlope: expected a number above or below 0, got 0")
    between_rows, between_columns = spacing.tolist()
    size = int(header.Rows), int(header.Columns)
    return Slice(frame, position, row, column, (between_rows, between_columns), size, slope, intercept, traits)


def _numbers(dataset: Dataset, keyword: str, count: int) -> Any:
    value = dataset.get(keyword)
    numbers = np.atleast_1d(np.array([] if value is None else value, dtype=np.float64))
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise VolumeError(f"{keyword}: expected {count} numbers, got {'nothing' if value is None else value}")
    return numbers

"""Scans below a folder: each file of one volume, and the files of each DICOM series together."""

import glob
from collections import defaultdict
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from tomoseg.core.files import common_folder
from tomoseg.core.notes import take_note
from tomoseg.data.formats import DETACHED_SUFFIXES, has_suffix
from tomoseg.data.masks import without_masks
from tomoseg.data.scan_files import dicom_files, find_volumes
from tomoseg.data.volume import SeriesSummary

ALL_SERIES = "all"
UID_TAIL = 8  # characters


@dataclass(frozen=True)
class Scan:
    """A file, or a DICOM series in a folder.

    Attributes:
        path: the file or the folder.
        series: SeriesInstanceUID, of a folder.
        tag: suffix that distinguishes its results from those of other series in the folder; empty for a single one.
    """

    path: Path
    series: str | None = None
    tag: str = ""


def find_scans(
    folder: Path,
    series: str | None = None,
    leave_out: Path | None = None,
    modality: str = "",
    *,
    all_files: bool = False,
) -> list[Scan]:
    """Return the scans below a folder, sorted by path.

    Each CT or MR series in DICOM is one scan, in the folder that holds all of its files, however many folders they are
    spread over.

    Args:
        folder: searched to its depth; hidden files and folders are left out.
        series: only DICOM series of this UID or description, which may be a pattern; "all" for scans of any kind and
            modality.
        leave_out: a folder that is not searched.
        modality: that is wanted. Series of another one are skipped with a note, if there are any of this.
        all_files: label maps beside their scans are scans, too.
    """
    every = series in (None, ALL_SERIES)
    volumes = find_volumes(folder, leave_out) if every else []
    scans = [Scan(path) for path in (volumes if all_files else without_masks(volumes))]
    dicom = dicom_files(folder, leave_out)
    if dicom:
        from tomoseg.data.dicom.series import find_series  # pydicom takes 0.2 s, and not everybody has DICOM

        found, damaged = find_series(dicom)
        places: dict[Path, list[SeriesSummary]] = defaultdict(list)
        for summary, files in found.items():
            places[common_folder(files) or folder].append(summary)
        chosen = _choose(list(found), series, modality, folder)
        scans += [
            Scan(place, one.uid, _tag(one, members))
            for place, members in places.items()
            for one in members
            if one in chosen
        ]
        if every:  # no file could be read: it is a scan that fails
            scans += [Scan(place) for place in {file.parent for file in damaged} - places.keys()]
    return sorted(scans, key=lambda scan: (scan.path, scan.series or ""))


def _choose(found: list[SeriesSummary], asked: str | None, modality: str, folder: Path) -> list[SeriesSummary]:
    """Return the series that are asked for; None stands for those of a modality, unless there is none of it."""
    if asked == ALL_SERIES:
        return found
    if asked is not None:
        pattern = asked.lower()
        return [one for one in found if one.uid == asked or fnmatchcase(one.description.lower(), pattern)]
    others = [one for one in found if {one.modality, modality.upper()[:2]} == {"CT", "MR"}]
    if not others or len(others) == len(found):
        return found
    take_note(
        f"{folder}: skipped, because they are no {modality}: {'; '.join(map(str, others))}. --series all includes them"
    )
    return [one for one in found if one not in others]


def _tag(one: SeriesSummary, members: list[SeriesSummary]) -> str:
    """Return the number of a series, and the end of its UID where the number is not unique in a folder."""
    if len(members) == 1:
        return ""
    numbers = [other.number for other in members]
    unique = one.number and numbers.count(one.number) == 1
    return one.number if unique else "_".join(filter(None, (one.number, one.uid[-UID_TAIL:])))


def files_of(path: Path, series: str | None = None) -> list[Path]:
    """Return the files that a scan is made of: itself, or the DICOM files below a folder, or header and voxels.

    Args:
        path: of the scan.
        series: SeriesInstanceUID, of a folder: only its files.
    """
    if path.is_dir():
        files = dicom_files(path)
        if series is None:
            return files
        from tomoseg.data.dicom.series import find_series

        return next((members for one, members in find_series(files)[0].items() if one.uid == series), files)
    if has_suffix(path.name, DETACHED_SUFFIXES):
        beside = path.parent.glob(f"{glob.escape(path.stem)}.*")
        return [path, *(other for other in beside if other != path and other.is_file())]
    return [path]

"""Scans below a folder: each file of one volume, and the files of each DICOM series together."""

import glob
from collections import defaultdict
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from tomoseg.core.errors import VolumeError
from tomoseg.core.files import common_folder
from tomoseg.core.notes import take_note
from tomoseg.data.archive import as_folder, is_archive
from tomoseg.data.formats import DETACHED_SUFFIXES, has_suffix, pair_of
from tomoseg.data.masks import without_masks
from tomoseg.data.scan_files import dicom_files, is_dicom, is_volume, visible_files
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
        folder: searched to its depth, and ZIPs in it; hidden files and folders are left out. Or a ZIP.
        series: only DICOM series of this UID or description, which may be a pattern; "all" for scans of any kind and
            modality.
        leave_out: a folder that is not searched.
        modality: that is wanted. Series of another one are skipped with a note, if there are any of this.
        all_files: label maps beside their scans are scans, too.
    """
    every = series in (None, ALL_SERIES)
    files = [folder] if is_archive(folder) else visible_files(folder, leave_out)
    volumes = list(filter(is_volume, files)) if every else []
    scans = [Scan(path) for path in (volumes if all_files else without_masks(volumes))]
    found, others = _find_series(files, folder)
    places: dict[Path, list[SeriesSummary]] = defaultdict(list)
    for one, place in found:
        places[place].append(one)
    chosen = _choose([one for one, _ in found], series, modality, folder)
    scans += [Scan(place, one.uid, _tag(one, places[place])) for one, place in found if one in chosen]
    if every:
        scans += [Scan(place) for place in others - places.keys()]
    return sorted(scans, key=lambda scan: (scan.path, scan.series or ""))


def _find_series(files: list[Path], folder: Path) -> tuple[list[tuple[SeriesSummary, Path]], set[Path]]:
    """Return the folder or ZIP of each CT or MR series among files, and those that are one scan without a series.

    These are ZIPs of one other file, and what holds damaged DICOM files, which the reader reports.
    """
    loose, archives = list(filter(is_dicom, files)), list(filter(is_archive, files))
    if not loose and not archives:
        return [], set()
    from tomoseg.data.dicom.series import find_series  # pydicom takes 0.2 s, and many folders hold no DICOM

    listed, damaged = find_series(loose)
    found = [(one, common_folder(its) or folder) for one, its in listed.items()]
    others = {one.parent for one in damaged}
    for archive in archives:
        try:
            with as_folder(archive) as (unpacked, _):
                listed, damaged = find_series(dicom_files(unpacked)) if unpacked.is_dir() else ({}, [unpacked])
        except VolumeError:  # its reader reports it
            listed, damaged = {}, [archive]
        if damaged:
            others.add(archive)
        elif not listed:
            take_note(f"{archive}: skipped, because it holds neither CT or MR series in DICOM nor one other scan")
        # a folder that was unpacked beside its ZIP is no other scan
        known = {one for one, place in found if place.is_relative_to(archive.with_suffix(""))}
        found += [(one, archive) for one in listed if one not in known]
    return found, others


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
    return list(dict.fromkeys(pair_of(path)))

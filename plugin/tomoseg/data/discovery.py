"""Scans below a folder: each file of one volume, and the files of each DICOM series together."""

import glob
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from tomoseg.data.formats import DETACHED_SUFFIXES, has_suffix
from tomoseg.data.scan_files import dicom_files, find_volumes


@dataclass(frozen=True)
class Scan:
    """A file, or a folder with a DICOM series; `series` is its SeriesInstanceUID where it has to be told."""

    path: Path
    series: str | None = None


def find_scans(folder: Path, series: str | None = None, leave_out: Path | None = None) -> list[Scan]:
    """Return the scans below a folder, sorted by path.

    Each CT or MR series in DICOM is one scan: the folder that holds all of its files, however many folders they are
    spread over. Where one folder holds all of several series, it is one scan, and reading it will say so.

    Args:
        folder: searched to its depth; hidden files and folders are left out.
        series: only the series of this UID.
        leave_out: a folder that is not searched.
    """
    scans = [Scan(path) for path in find_volumes(folder, leave_out)] if series is None else []
    dicom = dicom_files(folder, leave_out)
    if dicom:
        from tomoseg.data.dicom.series import find_series  # pydicom takes 0.2 s, and not everybody has DICOM

        found, damaged = find_series(dicom)
        places: dict[Path, list[str]] = defaultdict(list)
        for uid, files in found.items():
            if series in (None, uid):
                places[Path(os.path.commonpath([file.parent for file in files]))].append(uid)
        scans += [Scan(place, uids[0] if len(uids) == 1 else None) for place, uids in places.items()]
        if series is None:  # nothing in there could be read: it is a scan that fails
            scans += [Scan(place) for place in {file.parent for file in damaged} - places.keys()]
    return sorted(scans, key=lambda scan: (scan.path, scan.series or ""))


def files_of(path: Path) -> list[Path]:
    """Return the files that a scan is made of: itself, or the DICOM files below a folder, or header and voxels."""
    if path.is_dir():
        return dicom_files(path)
    if has_suffix(path.name, DETACHED_SUFFIXES):
        return [path, *(other for other in path.parent.glob(f"{glob.escape(path.stem)}.*") if other != path)]
    return [path]

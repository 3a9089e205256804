"""The scans below a folder: files of one volume each, and DICOM series."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from tomoseg.volumes.search import dicom_files, find_volumes


@dataclass(frozen=True)
class Scan:
    """A file, or a folder with a DICOM series; `series` is its SeriesInstanceUID where it has to be told."""

    path: Path
    series: str | None = None


def find_scans(folder: Path, series: str | None = None, leave_out: Path | None = None) -> list[Scan]:
    """Return the scans below a folder, sorted by path.

    A folder that itself holds CT or MR images in DICOM is one scan; where it holds several series, reading it will say
    so. A series that is spread over several folders is one scan, the folder above them.

    Args:
        folder: searched to its depth; hidden files and folders are left out.
        series: only the series of this UID.
        leave_out: a folder that is not searched.
    """
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in dicom_files(folder, leave_out):
        by_folder[path.parent].append(path)
    places: dict[str, list[Path]] = defaultdict(list)
    if by_folder:
        from tomoseg.volumes.dicom import first_image  # pydicom takes 0.2 s, and not everybody has DICOM

        for place, paths in by_folder.items():
            uid = first_image(paths, series)
            if uid is not None:
                places[uid].append(place)
    scans = [Scan(path) for path in find_volumes(folder, leave_out)] if series is None else []
    for uid, members in places.items():
        alone = len(members) == 1
        scans.append(Scan(Path(os.path.commonpath(members)), series if alone else uid))
    return sorted(scans, key=lambda scan: (scan.path, scan.series or ""))

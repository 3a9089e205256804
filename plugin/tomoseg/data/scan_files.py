"""Files below a folder that may hold scans, told by their names and first bytes; none is read."""

import os
from pathlib import Path

from tomoseg.core.files import open_regular, real_path
from tomoseg.data.formats import SEGMENTATION_SUFFIX, VOLUME_SUFFIXES, has_suffix

DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
# how a file starts that has elements of group 8 and no preamble, as some old ones do: (0008,0000), (0008,0001), …
BARE_STARTS = tuple(b"\x08\0" + bytes((element, 0)) for element in (0x00, 0x01, 0x05, 0x08, 0x12, 0x16))
INDEX_NAME = "DICOMDIR"  # the index of a medium, itself a DICOM file


def is_dicom(path: Path) -> bool:
    """Tell whether a file says that it is DICOM, by its first bytes or by its name."""
    if has_suffix(path.name, DICOM_SUFFIXES):
        return True
    if path.name.upper() == INDEX_NAME or has_suffix(path.name, VOLUME_SUFFIXES) or not path.is_file():
        return False
    with open_regular(path) as file:
        start = file.read(132)
    return start[128:] == b"DICM" or start.startswith(BARE_STARTS)


def dicom_files(folder: Path, leave_out: Path | None = None) -> list[Path]:
    """Return the DICOM files below a folder, sorted; hidden ones, and those below `leave_out`, are left out."""
    return [path for path in visible_files(folder, leave_out) if is_dicom(path)]


def find_volumes(folder: Path, leave_out: Path | None = None) -> list[Path]:
    """Return the NIfTI, NRRD and MetaImage files below a folder, sorted.

    Hidden ones, 3D Slicer's segmentations, and what lies below `leave_out` are left out.
    """
    return list(filter(is_volume, visible_files(folder, leave_out)))


def is_volume(path: Path) -> bool:
    """Tell whether a path is called as a NIfTI, NRRD or MetaImage file, and not as 3D Slicer's segmentations."""
    return has_suffix(path.name, VOLUME_SUFFIXES) and not has_suffix(path.name, (SEGMENTATION_SUFFIX,))


def visible_files(folder: Path, leave_out: Path | None = None) -> list[Path]:
    """Return the files below a folder, sorted; hidden ones, and those below `leave_out`, are left out."""
    found: list[Path] = []
    skipped = None if leave_out is None else real_path(leave_out)
    for here, folders, names in os.walk(folder):
        place = Path(here)
        shown = [name for name in folders if not name.startswith(".")]
        folders[:] = [name for name in shown if skipped is None or real_path(place / name) != skipped]
        found.extend(place / name for name in names if not name.startswith("."))
    return sorted(found)

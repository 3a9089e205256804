"""Find files below a folder that may hold scans, by their names and first bytes; none is read."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tomoseg.core.files import open_regular, real_path
from tomoseg.core.notes import take_note
from tomoseg.data.formats import SCAN_SUFFIXES, SEGMENTATION_SUFFIX, VOLUME_SUFFIXES, has_suffix, pair_of

DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
# how a file starts that has elements of group 8 and no preamble, as some old ones do: (0008,0000), (0008,0001), …
BARE_STARTS = tuple(b"\x08\0" + bytes((element, 0)) for element in (0x00, 0x01, 0x05, 0x08, 0x12, 0x16))
START_BYTES = 132  # with the mark of DICOM
LOST_PREAMBLE = (b"DICM", b"\x02\0\0\0")
INDEX_NAME = "DICOMDIR"  # the index of a medium, itself a DICOM file


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM by its first bytes or by its name."""
    if has_suffix(path.name, DICOM_SUFFIXES):
        return True
    if path.name.upper() == INDEX_NAME or has_suffix(path.name, VOLUME_SUFFIXES) or not path.is_file():
        return False
    with open_regular(path) as file:
        return starts_as_dicom(file.read(START_BYTES))


def starts_as_dicom(start: bytes) -> bool:
    """Return whether a file is DICOM by its first bytes."""
    return start[128:] == b"DICM" or start.startswith((*BARE_STARTS, *LOST_PREAMBLE))


def dicom_files(folder: Path) -> list[Path]:
    """Return the DICOM files below a folder, sorted; hidden ones are left out."""
    return list(filter(is_dicom, visible_files(folder)))


def is_volume(path: Path) -> bool:
    """Return whether a path has the suffix of a format of scans, and not that of 3D Slicer's segmentations.

    NIfTI in two files is known by the file of its header, with the other one beside it.
    """
    if not has_suffix(path.name, SCAN_SUFFIXES) or has_suffix(path.name, (SEGMENTATION_SUFFIX,)):
        return False
    header, voxels = pair_of(path)
    return path == header and (path == voxels or voxels.is_file())


def visible_files(folder: Path, leave_out: Path | None = None) -> list[Path]:
    """Return the files below a folder, sorted; hidden ones, and those below `leave_out`, are left out.

    Links are followed, each folder once. Notes name links that lead out of the folder, and skipped entries.
    """
    found = [here / name for here, names in visible_folders(folder, leave_out) for name in names if name[0] != "."]
    links = [path for path in found if path.is_symlink()]
    for path in links:
        if not path.exists():
            take_note(f"{path}: skipped: a link that leads nowhere")
    for note in note_outside(filter(Path.exists, links), folder, folder):
        take_note(note)
    return sorted(found)


def note_outside(paths: Iterable[Path], folder: Path, name: object) -> list[str]:
    """Return a note on the links that lead out of a folder, if there are any.

    Args:
        paths: files.
        folder: the folder.
        name: what the note calls it.
    """
    root = real_path(folder)
    outside = [path for path in paths if not real_path(path).is_relative_to(root)]
    others = f", and {len(outside) - 1} more" if len(outside) > 1 else ""
    return [f"{one}: a link that leads out of {name}, to {real_path(one)}{others}" for one in outside[:1]]


def visible_folders(folder: Path, leave_out: Path | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and those below it, each with the names of its files; otherwise as `visible_files`.

    What comes by a link comes last, so that a folder keeps its own name where it has one.
    """
    root = real_path(folder)
    skipped = None if leave_out is None else real_path(leave_out)
    searched: list[Path] = []
    waiting = deque([folder])
    while waiting:
        start = waiting.popleft()
        target = real_path(start)
        if skipped is not None and target.is_relative_to(skipped):
            continue
        if start != folder and (why := _why_passed_over(target, root, searched)):
            take_note(f"{start}: skipped: a link to {target}, {why}")
            continue
        if start != folder and not target.is_relative_to(root):
            take_note(f"{start}: a link that leads out of {folder}, to {target}")
        searched.append(target)
        for here, folders, names in os.walk(start, onerror=_note_unreadable):
            place = Path(here)
            below = [place / name for name in sorted(folders) if not name.startswith(".")]
            links = [path for path in below if path.is_symlink()]
            waiting.extend(links)
            known = {skipped, *searched}
            folders[:] = [path.name for path in below if path not in links and real_path(path) not in known]
            yield place, names


def _why_passed_over(target: Path, root: Path, searched: Sequence[Path]) -> str:
    """Return why a link's target is not searched: the files below it would come twice, or without end."""
    if root.is_relative_to(target):
        return "which holds the link itself"
    for known in searched:
        if target.is_relative_to(known) and not any(part.startswith(".") for part in target.relative_to(known).parts):
            return "which is searched already"
    return ""


def _note_unreadable(error: OSError) -> None:
    take_note(f"{error.filename}: skipped: {error.strerror}")

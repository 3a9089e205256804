"""ZIPs with DICOM series or one other scan, unpacked to temporary folders and read as these."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

from tomoseg.core.archives import unpack
from tomoseg.core.errors import VolumeError, errors_name
from tomoseg.core.files import real_path
from tomoseg.core.notes import collect_notes, take_note
from tomoseg.data.formats import VOLUME_SUFFIXES, has_suffix
from tomoseg.data.scan_files import (
    DICOM_SUFFIXES,
    START_BYTES,
    is_dicom,
    is_volume,
    starts_as_dicom,
    visible_files,
)

KEPT = 4  # unpacked ZIPs; one is read, one is in the network and one is written at a time

_lock = Lock()
_unpacked: dict[tuple[Path, int, int], TemporaryDirectory[str]] = {}


def is_archive(path: Path) -> bool:
    """Return whether a path is a ZIP by its name."""
    return has_suffix(path.name, (".zip",)) and path.is_file()


@contextmanager
def as_folder(path: Path) -> Iterator[tuple[Path, Callable[[str], str]]]:
    """Yield the folder that a ZIP's scans are unpacked to, and what names the ZIP in place of it in a text.

    Of a ZIP with one file of another format than DICOM, such as NIfTI, the file is yielded.

    Any other path is yielded unchanged. Errors and notes name the ZIP. The folder stays for a while: a DICOM result
    reads the headers of a series again.

    Raises:
        VolumeError: it is damaged, or larger than the limits of `tomoseg.core.archives`.
    """
    if not is_archive(path):
        yield path, str
        return
    folder = _unpack(path)
    files = visible_files(folder)
    volumes = list(filter(is_volume, files))
    alone = len(volumes) == 1 and not any(map(is_dicom, files))

    def name(text: str) -> str:
        return text.replace(str(folder), str(path))

    with collect_notes() as notes, errors_name(folder, path):
        yield volumes[0] if alone else folder, name
    for note in notes:
        take_note(name(note))


def _unpack(path: Path) -> Path:
    status = path.stat()
    state = real_path(path), status.st_size, status.st_mtime_ns
    with _lock:
        if state not in _unpacked:
            while len(_unpacked) >= KEPT:
                _unpacked.pop(next(iter(_unpacked))).cleanup()
            folder = TemporaryDirectory(prefix="tomoseg-", ignore_cleanup_errors=True)
            unpack(path, Path(folder.name), _is_scan, VolumeError)
            _unpacked[state] = folder
        return Path(_unpacked[state].name)


def _is_scan(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    if member.is_dir() or has_suffix(member.filename, (*DICOM_SUFFIXES, *VOLUME_SUFFIXES)):
        return not member.is_dir()
    with archive.open(member) as file:
        return starts_as_dicom(file.read(START_BYTES))

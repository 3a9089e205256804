"""ZIPs of strangers, unpacked within limits and within one folder."""

import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from tomoseg.core.errors import BundleError, TomosegError, errors_as
from tomoseg.core.files import require_regular

MAX_BYTES = 50_000_000_000
MAX_FILES = 100_000
MAX_INFLATION = 50  # weights hardly shrink
SMALL_BYTES = 100_000_000
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)


def path_of(member: zipfile.ZipInfo) -> Path:
    """Return the path of a member; some programs on Windows separate its parts by backslashes."""
    return Path(member.filename.replace("\\", "/"))


def unpack(
    path: Path,
    target: Path,
    wanted: Callable[[zipfile.ZipFile, zipfile.ZipInfo], bool] = lambda archive, member: True,
    kind: type[TomosegError] = BundleError,
) -> Path:
    """Unpack a ZIP, with no file outside the folder; return the folder.

    Args:
        path: the ZIP.
        target: the folder.
        wanted: returns whether a member of the open ZIP is unpacked.
        kind: of the errors.

    Raises:
        TomosegError: of this kind: it is damaged, larger than the limits, or holds a link or a file outside of itself.
    """
    with (
        errors_as(kind, f"{path}: cannot be unpacked, because it cannot be read as a ZIP", *DAMAGE),
        zipfile.ZipFile(require_regular(path)) as archive,
    ):
        members = [one for one in archive.infolist() if wanted(archive, one)]
        size = sum(member.file_size for member in members)
        if size > MAX_INFLATION * path.stat().st_size + SMALL_BYTES:
            raise kind(f"{path}: inflates to more than {MAX_INFLATION} times its size. Unpack it yourself")
        if len(members) > MAX_FILES or size > MAX_BYTES:
            raise kind(f"{path}: more than {MAX_FILES} files or {MAX_BYTES // 10**9} GB. Unpack it yourself")
        for member in members:
            parts = path_of(member).parts
            outside = not parts or ".." in parts or Path(parts[0]).is_absolute() or ":" in parts[0]
            if outside or stat.S_ISLNK(member.external_attr >> 16):
                raise kind(f"{path}: holds a link or a file outside of itself, {member.filename!r}. Do not use it")
            place = target.joinpath(*parts)
            if member.is_dir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as packed, place.open("xb") as file:
                shutil.copyfileobj(packed, file)  # ZipFile reads no more than the size that was added up
    return target

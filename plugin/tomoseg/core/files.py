"""Files that are either whole or not there."""

import hashlib
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from tomoseg.core.errors import OutputError, one_line

# A path that is no valid UTF-8 holds lone surrogates: as \udcff they are readable, and in JSON the very same path.
UNENCODABLE = "backslashreplace"


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path` in one step, on any failure it is removed.

    The temporary name starts with a dot, so that no search for volumes finds it, and keeps the suffixes, so that
    writers which choose a format by suffix work. Parent folders are made.

    Raises:
        OutputError: the folder cannot be made or written to, or the disk is full.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:  # the rename must not reach the disk before the contents
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {one_line(error)}") from error
    finally:
        with suppress(OSError):  # gone already, or its folder was never there
            temporary.unlink()


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, atomically.

    Raises:
        OutputError: the copy cannot be written.
    """
    with atomic_file(target) as temporary:
        shutil.copyfile(source, temporary)


STAGING = f".tomoseg-{platform.node()}-"  # and the process; other machines may work in the same folder


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """Yield a new hidden folder in `parent`, for files that are to take their names at once; it is removed afterwards.

    Raises:
        OutputError: it cannot be made, or what is written in there fails.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(None, f"{STAGING}{os.getpid()}-", parent, ignore_cleanup_errors=True) as folder:
            yield Path(folder)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{parent}: cannot be written to: {one_line(error)}") from error


def remove_stale(parent: Path) -> None:
    """Remove what processes of this machine that are no more left in `parent`."""
    with suppress(OSError):
        for folder in parent.glob(f"{STAGING}*-*"):
            pid = folder.name.removeprefix(STAGING).partition("-")[0]
            if pid.isdigit() and not _is_alive(int(pid)):
                shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    """Tell whether a process is there and does something; one that was killed stays until its parent asks for it."""
    import psutil  # 25 ms that `tomoseg --help` need not wait for

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

"""Files that are either whole or not there."""

import hashlib
import os
import platform
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from tempfile import TemporaryDirectory

from tomoseg.core.errors import OutputError, errors_as, one_line

# A path that is no valid UTF-8 holds lone surrogates: as \udcff they are readable, and in JSON the very same path.
UNENCODABLE = "backslashreplace"
UMASK = os.umask(0o077)  # can only be read by setting it, which no other thread may see
os.umask(UMASK)
MAX_TEXT_BYTES = 1 << 28  # far more than any JSON file of a dataset, a bundle or a run has


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read its bytes; a pipe or a device would wait or go on for ever.

    Raises:
        OSError: it is none, or cannot be opened.
    """
    file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("expected a regular file, got a pipe or a device")
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def require_regular(path: Path) -> Path:
    """Return the path of a regular file, for a library that opens it by its name; otherwise as `open_regular`."""
    open_regular(path).close()
    return path


def real_path(path: Path) -> Path:
    """Return a path without links; one that leads in a circle stays, where `Path.resolve` raises RuntimeError."""
    return Path(os.path.realpath(path))


def common_folder(files: Iterable[Path]) -> Path | None:
    """Return the folder that all files lie in; None where there is no such folder."""
    try:
        return Path(os.path.commonpath([file.parent for file in files]))
    except ValueError:  # none at all, several drives, or relative beside absolute paths
        return None


def read_text(path: Path, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Return the text in a regular file of at most `MAX_TEXT_BYTES`; otherwise as `open_regular`."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_TEXT_BYTES:
            raise OSError(f"expected a text of at most {MAX_TEXT_BYTES >> 20} MiB")
        return file.read().decode(encoding, errors)  # a number of bytes would be taken from memory before it is read


@contextmanager
def atomic_file(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path` in one step, on any failure it is removed.

    The temporary name starts with a dot, so that no search for volumes finds it, and keeps the suffixes, so that
    writers which choose a format by suffix work. Its name cannot be guessed, and no other user can read the file
    before it is complete, nor afterwards if it is `private`. Parent folders are made.

    Raises:
        OutputError: the folder cannot be made or written to, or the disk is full.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600))
        yield temporary
        with temporary.open("rb+") as file:  # the rename must not reach the disk before the contents
            os.fsync(file.fileno())
        temporary.chmod(0o600 if private else 0o666 & ~UMASK)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {one_line(error)}") from error
    finally:
        with suppress(OSError):  # gone already, or its folder was never there
            temporary.unlink()


def private_cache(kind: str) -> Path:
    """Return the user's folder for files of one kind; no other user may read it or write to it."""
    import platformdirs  # 10 ms that `tomoseg --help` need not wait for

    folder = Path(platformdirs.user_cache_dir("tomoseg", appauthor=False)) / kind
    with suppress(OSError):  # a read-only home: nothing is kept
        folder.mkdir(0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    return folder


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
        OutputError: the folder cannot be made, or a write in it fails.
    """
    remedy = ". Choose a folder that you may write to"
    with errors_as(OutputError, f"{parent}: cannot be written to", OSError, remedy=remedy):
        parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(None, f"{STAGING}{os.getpid()}-", parent, ignore_cleanup_errors=True) as folder:
            yield Path(folder)


def remove_stale(parent: Path) -> None:
    """Remove what processes of this machine that are no more left in `parent`."""
    with suppress(OSError):
        for folder in parent.glob(f"{STAGING}*-*"):
            pid = folder.name.removeprefix(STAGING).partition("-")[0]
            if pid.isdigit() and not _is_alive(int(pid)):
                shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    """Return whether a process is running; a killed one stays a zombie until its parent waits for it."""
    import psutil  # 25 ms that `tomoseg --help` need not wait for

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

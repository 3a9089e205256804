"""Whether the code of a bundle may run: its configs, scripts and compiled networks can do what the user can.

Bundles of tomoseg and of installed packages may. So may those that tomoseg wrote on this computer, and those that the
user allowed: the user's data folder keeps the SHA-256 of their code, which no longer fits where a file changed.
"""

import hashlib
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from platformdirs import user_data_path

from tomoseg.bundle.metadata import Bundle
from tomoseg.core.errors import BundleError, OutputError, errors_as, one_line
from tomoseg.core.files import open_regular, sha256
from tomoseg.core.json_files import write_json
from tomoseg.core.notes import print_note

# what Python imports, torch and TensorRT load, and MONAI parses; all files of the folders count, too
CODE_SUFFIXES = (".py", ".pyc", ".so", ".pyd", ".dll", ".dylib", ".zip", ".egg", ".ts", ".ptl", ".engine")
CODE_FOLDERS = ("configs", "scripts")
PASSED_OVER = ".git"
BYTECODE = re.compile(r"[^.]+\.[^.]+\.pyc")  # in __pycache__: bundles run without it
ARCHIVES = (".pt", ".pth", ".bin", ".ckpt")  # of weights, or of a compiled network
MAX_FILES = 100_000

_allowed: set[str] = set()  # in this process, where the data folder cannot be written to


class UntrustedBundleError(BundleError):
    """A bundle whose code the user has not allowed to run."""


def code_files(root: Path) -> list[Path]:
    """Return the files of a bundle that hold code, sorted; links are followed.

    Args:
        root: the bundle's folder.

    Raises:
        BundleError: the folder has more than 100,000 files, or cannot be read.
    """
    found, seen, count = list[Path](), set[tuple[int, int]](), 0
    with errors_as(BundleError, f"{root}: cannot be read", OSError):
        for place, folders, names in os.walk(root, followlinks=True):
            here = Path(place)
            seen.add(_identity(here))
            folders[:] = [one for one in folders if one != PASSED_OVER and _identity(here / one) not in seen]
            count += len(names)
            if count > MAX_FILES:
                raise BundleError(f"{root}: more than {MAX_FILES} files. Give the folder of one bundle.")
            is_code = not {*CODE_FOLDERS}.isdisjoint(here.relative_to(root).parts)  # of a set's members, too
            if here.name == "__pycache__":
                names = [name for name in names if not BYTECODE.fullmatch(name)]
            paths = (here / name for name in names)
            found += [path for path in paths if path.is_file() and (is_code or _runs(path))]
    return sorted(found)


def _identity(folder: Path) -> tuple[int, int]:
    """Return what links to a folder have in common with it."""
    with suppress(OSError):
        status = folder.stat()
        return status.st_dev, status.st_ino
    return 0, 0


def _runs(path: Path) -> bool:
    """Return whether a file outside of the folders of code holds some: by its suffix, or as TorchScript."""
    suffix = path.suffix.lower()
    if suffix not in ARCHIVES:
        return suffix in CODE_SUFFIXES
    with suppress(zipfile.BadZipFile, NotImplementedError, ValueError), open_regular(path) as file:
        return any("/code/" in name or name.endswith("/constants.pkl") for name in zipfile.ZipFile(file).namelist())
    return False


def hash_code(root: Path) -> str:
    """Return the SHA-256 over the names and contents of a bundle's code, in hexadecimal.

    Results and checkpoints do not count, and neither does where the folder lies.

    Raises:
        BundleError: a file cannot be read.
    """
    digest = hashlib.sha256()
    with errors_as(BundleError, f"{root}: cannot be read", OSError):
        for path in code_files(root):
            digest.update(os.fsencode(path.relative_to(root)) + b"\0" + sha256(path).encode() + b"\n")
    return digest.hexdigest()


def is_trusted(bundle: Bundle) -> bool:
    """Return whether the code of a bundle may run."""
    if bundle.trusted:
        return True
    code = hash_code(bundle.root)
    return code in _allowed or _record_of(code).is_file()


def require_trusted(bundle: Bundle) -> None:
    """Raise UntrustedBundleError unless the code of a bundle may run."""
    if not is_trusted(bundle):
        raise UntrustedBundleError(
            f"{bundle.root}: a bundle is code, and this one is not trusted. Look at it with `tomoseg info`, then run "
            "it with --trust, or in Python with find_bundle(folder, trust=True)."
        )


def record(root: Path, code: str = "") -> None:
    """Let the code of a bundle run from now on, until it changes.

    Args:
        root: the bundle's folder.
        code: hash of the code that the user saw, from `hash_code`; by default the current one.
    """
    code = code or hash_code(root)
    _allowed.add(code)
    try:
        date = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(_record_of(code), {"folder": str(root.absolute()), "date": date})
    except OutputError as error:
        print_note(f"{root}: trusted for this run only: {one_line(error)}")


@contextmanager
def changed_by_us(bundle: Bundle) -> Iterator[None]:
    """Keep a bundle trusted whose code tomoseg changes inside the `with`.

    Raises:
        UntrustedBundleError: another program changed it before.
    """
    require_trusted(bundle)
    yield
    if not bundle.trusted:
        record(bundle.root)


def _record_of(code: str) -> Path:
    return user_data_path("tomoseg") / "trusted" / f"{code}.json"

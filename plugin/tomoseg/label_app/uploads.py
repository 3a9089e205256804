"""Files that clients send: kept in private folders under names of our own, and removed when a request ends."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fastapi import UploadFile
from starlette.exceptions import HTTPException

from tomoseg.core.errors import errors_name
from tomoseg.data.formats import SEGMENTATION_SUFFIX, SINGLE_FILE_SUFFIXES, has_suffix
from tomoseg.label_app.datastore.annotation import RAW_SUFFIX

INPUT_SUFFIXES = (*SINGLE_FILE_SUFFIXES, ".zip", ".dcm")  # of scans that are segmented, and not kept
LABEL_SUFFIXES = (SEGMENTATION_SUFFIX, *INPUT_SUFFIXES, RAW_SUFFIX)


@contextmanager
def received(files: Sequence[UploadFile], suffixes: Sequence[str], folder: Path) -> Iterator[Path]:
    """Keep what a client sent while a request runs.

    Args:
        files: at least one; a name without a suffix is one of a DICOM file.
        suffixes: of the formats that are expected.
        folder: for the private folder.

    Yields:
        The file, or the folder of several.

    Raises:
        HTTPException: there is none, or one of another format.
    """
    if not files:
        raise HTTPException(400, "expected a file, got none")
    with tempfile.TemporaryDirectory(dir=folder) as private:
        parent = Path(private) / "series"
        parent.mkdir()
        for index, file in enumerate(files):
            with (parent / f"{index:06}{_suffix(file.filename or '', suffixes)}").open("wb") as target:
                shutil.copyfileobj(file.file, target)
        path = parent if len(files) > 1 else next(parent.iterdir())
        with errors_name(path, "uploaded file"):
            yield path


def _suffix(name: str, suffixes: Sequence[str]) -> str:
    """Return the suffix by which a file's format is known; a client's own name may say whose it is."""
    if found := next((suffix for suffix in suffixes if has_suffix(name, (suffix,))), ""):
        return found
    ending = name.rpartition("/")[2].rpartition(".")
    if ".dcm" in suffixes and (not ending[1] or ending[2].isdecimal()):  # as scanners name DICOM files
        return ".dcm"
    raise HTTPException(400, f"file: expected one of {', '.join(suffixes)}, got {name[-40:]!r}")

"""What tomoseg measured of a bundle, as JSON files in its `configs`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from tomoseg.bundle.configs import as_plain
from tomoseg.core.errors import BundleError, errors_as
from tomoseg.core.json_files import read_json, write_json
from tomoseg.core.json_records import from_json

Record = TypeVar("Record")


def save_measured(path: Path, record: Any) -> None:
    """Write a dataclass, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    write_json(path, as_plain(asdict(record)))


def read_measured(path: Path, kind: type[Record], remedy: str) -> Record | None:
    """Return what a file holds as a dataclass; None where there is no such file.

    Args:
        path: of the file.
        kind: the dataclass; it raises ValueError for contents that do not go together.
        remedy: how a damaged file is made again.

    Raises:
        BundleError: the file is damaged.
    """
    if not path.is_file():
        return None
    what, advice = f"{path}: cannot be read", f". {remedy}, or remove the file."
    with errors_as(BundleError, what, OSError, ValueError, remedy=advice):
        found: Record = from_json(kind, read_json(path))
    return found

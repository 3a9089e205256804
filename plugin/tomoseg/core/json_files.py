"""The JSON files of tomoseg: written atomically, with the version of their layout, and read back."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tomoseg.core.errors import SchemaVersionError
from tomoseg.core.files import UNENCODABLE, atomic_file, read_text

SCHEMA_VERSION: Final = 1  # of every kind of file; `report/schemas` describes each


def format_json(content: Mapping[str, Any]) -> str:
    """Return an object as JSON, with `schema_version` as its first key.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    versioned = {"schema_version": SCHEMA_VERSION, **content}
    return json.dumps(versioned, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as `format_json` does, atomically.

    Raises:
        OutputError: the file cannot be written.
        ValueError: a number is NaN or infinite.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(format_json(content), encoding="utf-8", errors=UNENCODABLE)


def load_json(path: Path) -> Any:
    """Return the content of a JSON file from another program.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no JSON, or JSON nested too deeply.
    """
    try:
        return json.loads(read_text(path, "utf-8-sig"))  # editors on Windows write a byte order mark
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, without its `schema_version`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no JSON object.
        SchemaVersionError: a newer version of tomoseg wrote it.
    """
    content = load_json(path)
    if not isinstance(content, dict):
        raise ValueError("expected a JSON object")
    version = content.pop("schema_version", SCHEMA_VERSION)
    if not isinstance(version, int):
        raise ValueError("expected a whole number as schema_version")
    if version > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{path}: a newer version of tomoseg wrote it (schema_version {version}, this one reads {SCHEMA_VERSION}). "
            "Update tomoseg."
        )
    return content


def hash_json(content: Any) -> str:
    """Return the SHA-256 over content as JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

"""Packed files, recognised by their first bytes and unpacked while they are read."""

import bz2
import math
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isal import igzip, isal_zlib

from tomoseg.core.errors import MissingPackageError, VolumeError, errors_as, import_package
from tomoseg.core.files import open_regular
from tomoseg.data.formats import DEFLATE_LIMIT

GZIP, BZIP2, ZSTANDARD = b"\x1f\x8b", b"BZh", b"\x28\xb5\x2f\xfd"  # how they begin
# what reading damaged ones raises
DAMAGE: Any = (OSError, EOFError, ValueError, OverflowError, zlib.error, isal_zlib.error)


@contextmanager
def unpack(path: Path, open_gzip: Callable[..., Any] = igzip.open) -> Iterator[Any]:
    """Yield a file, open to read its content, whether it is packed or not.

    Args:
        path: the file.
        open_gzip: opens one that is packed by gzip.

    Raises:
        VolumeError: it is packed by zstandard, and damaged or in need of a package; other damage raises `DAMAGE`.
    """
    with open_regular(path) as file:
        start = file.peek(4)
        if start.startswith(ZSTANDARD):
            module = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
            with errors_as(VolumeError, str(path), MissingPackageError):
                zstandard: Any = import_package(module, "backports.zstd")
            damaged = errors_as(VolumeError, f"{path}: truncated or damaged", zstandard.ZstdError)
            with damaged, zstandard.open(file, "rb") as content:
                yield content
        elif start.startswith((GZIP, BZIP2)):
            with (open_gzip if start.startswith(GZIP) else bz2.open)(file, "rb") as content:
                yield content
        else:
            yield file


def max_expansion(path: Path) -> float:
    """Return how many bytes a byte of a file may hold; 1 unless it is packed."""
    with open_regular(path) as file:
        start = file.read(4)
    return DEFLATE_LIMIT if start.startswith(GZIP) else math.inf if start.startswith((BZIP2, ZSTANDARD)) else 1

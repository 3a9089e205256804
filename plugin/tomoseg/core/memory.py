"""The memory of this process, and errors that say that it ran out."""

import ctypes
import errno
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from tomoseg.core.control_groups import read_groups
from tomoseg.core.errors import TomosegError, one_line, root_cause

# how torch, CUDA's libraries and OpenVINO say it
OUT_OF_MEMORY: Final = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
    "failed to allocate",  # ITK
    "unable to allocate",  # numpy
    "bad_alloc",
    "failed to map segment",  # of a library that is imported only now
)
OUT_OF_MEMORY_ERRORS: Final = (MemoryError, RuntimeError, ImportError)  # torch.OutOfMemoryError is a RuntimeError


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM."""
    return int(psutil.Process().memory_info().rss)


def free_bytes(root: Path = Path("/")) -> int:
    """Return the memory that this process may still take: the machine's, or what its control groups leave.

    Args:
        root: the folder with `proc` and `sys`.
    """
    free = [int(psutil.virtual_memory().available)]
    names = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for limit, used in read_groups("memory", *names, root):
        with suppress(ValueError):  # "max"
            free.append(int(limit) - int(used))
    return max(min(free), 0)


def release_unused() -> None:
    """Give back to the system what the C library keeps of freed memory, which would count against a limit.

    After a large scan that may be 100 MB and more. Only glibc keeps so much, and only it can be asked.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def megabytes(size: int) -> int:
    """Return bytes as whole MB (10⁶ bytes), rounded up."""
    return -(-size // 10**6)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python, torch or a backend means that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without its import
        return True
    if isinstance(error, OSError):  # a map of memory, or a process that cannot start
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    return isinstance(error, OUT_OF_MEMORY_ERRORS) and any(words in text for words in OUT_OF_MEMORY)


def explain_failure(error: BaseException, what: object, purpose: str) -> str:
    """Return one line that says why a scan failed; its libraries raise errors of any kind.

    Args:
        error: the error.
        what: the scan, which stands first in our own errors.
        purpose: of the memory, where that ran out.
    """
    if isinstance(error, TomosegError):
        return one_line(error)
    if is_out_of_memory(root_cause(error)):
        return f"{what}: not enough memory {purpose}: {one_line(error)}"
    return f"{what}: unexpected {type(error).__name__}: {one_line(error)}"

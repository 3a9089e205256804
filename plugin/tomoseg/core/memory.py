"""The memory of this process, and errors that say that it ran out."""

import ctypes
import sys
from typing import Final

import psutil

# how torch, CUDA's libraries and OpenVINO say it
OUT_OF_MEMORY: Final = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
    "bad_alloc",
    "failed to map segment",  # of a library that is imported only now
)
OUT_OF_MEMORY_ERRORS: Final = (MemoryError, RuntimeError, ImportError)  # torch.OutOfMemoryError is a RuntimeError


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM."""
    return int(psutil.Process().memory_info().rss)


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
    """Tell whether an error of Python, torch or a backend says that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without its import
        return True
    text = str(error).lower()
    return isinstance(error, OUT_OF_MEMORY_ERRORS) and any(words in text for words in OUT_OF_MEMORY)

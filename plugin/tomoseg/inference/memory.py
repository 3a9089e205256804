"""Measurement of the memory that this process uses, and detection of out-of-memory errors."""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import Final

import psutil
import torch

from tomoseg.inference.device import CPU

SAMPLE_EVERY_S: Final = 0.005
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


class PeakMemory:
    """Measures what is taken while it is open: the system's own mark cannot be set back for each scan.

    Args:
        device: the GPU to watch, too; any other device for none.

    Attributes:
        before_bytes, bytes: resident memory when it was opened, and the largest since.
        vram_before_bytes, vram_bytes: the same on the GPU, of what torch allocated; 0 without one.
    """

    def __init__(self, device: torch.device = CPU) -> None:
        self._gpu = device if device.type == "cuda" else None
        self.before_bytes = self.bytes = resident_bytes()
        self.vram_before_bytes = self.vram_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        if self._gpu is not None:
            self.vram_before_bytes = self.vram_bytes = torch.cuda.memory_allocated(self._gpu)
            torch.cuda.reset_peak_memory_stats(self._gpu)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.now()
        if self._gpu is not None:
            self.vram_bytes = torch.cuda.max_memory_allocated(self._gpu)

    def now(self) -> int:
        """Return the largest resident memory so far, in bytes."""
        self.bytes = max(self.bytes, resident_bytes())
        return self.bytes

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_EVERY_S):
            self.now()


def megabytes(size: int) -> int:
    """Return bytes as whole MB (10⁶ bytes), rounded up."""
    return -(-size // 10**6)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of Python, torch or a backend says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, OUT_OF_MEMORY_ERRORS) and any(words in text for words in OUT_OF_MEMORY)

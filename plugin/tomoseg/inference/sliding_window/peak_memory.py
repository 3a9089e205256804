"""Measurement of the memory that this process and a GPU use while something runs."""

from __future__ import annotations

import threading
from typing import Final

import torch

from tomoseg.core.memory import resident_bytes

CPU: Final = torch.device("cpu")
SAMPLE_EVERY_S: Final = 0.005


class PeakMemory:
    """Measure the peak memory while it is open: the system's own mark cannot be reset for each scan.

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

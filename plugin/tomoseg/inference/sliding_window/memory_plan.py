"""Estimate of the memory that a volume needs, and the plan that fits into a limit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import psutil
import torch

from tomoseg.core.errors import MemoryLimitError
from tomoseg.core.memory import megabytes
from tomoseg.inference.sliding_window.peak_memory import CPU
from tomoseg.inference.sliding_window.restore import BLOCK_VOXELS, CHUNK_POINTS
from tomoseg.inference.sliding_window.windows import Windows

POINT_BYTES: Final = 8 * (8 + 4 + 4) + 3 * 24  # indices, weights and positions of a point's eight corners
F32_BYTES: Final = 4


@dataclass(frozen=True)
class MemoryPlan:
    """What a volume is run with.

    Attributes:
        batch_size: windows that the network gets at once.
        dtype: of the slab of logits.
        device: where the slab lives.
        ram_bytes: predicted peak of the process.
        vram_bytes: predicted peak on the GPU; 0 without one.
    """

    batch_size: int
    dtype: torch.dtype
    device: torch.device
    ram_bytes: int = 0
    vram_bytes: int = 0

    def step_down(self) -> MemoryPlan | None:
        """Return a plan that needs less memory at once, for a network that ran out of it; None if there is none."""
        if self.batch_size > 1:
            return replace(self, batch_size=self.batch_size // 2)
        if self.device.type == "cuda":
            return replace(self, device=CPU)
        return None


@dataclass(frozen=True)
class MemoryEstimate:
    """Measurements of a volume after its first window.

    Attributes:
        windows: where the windows lie.
        labels: number of logits.
        batch_size: windows at once, as the bundle asks for.
        resident: bytes of the process before the first window.
        network: bytes that the network takes for one window, its logits included.
        result: bytes of the output in the scan's grid.
        network_device: device of the network.
        on_gpu: bytes that are taken on the GPU before the first window.
        kept: bytes of logits that are kept for windows that hold one value only.
    """

    windows: Windows
    labels: int
    batch_size: int
    resident: int
    network: int
    result: int
    network_device: torch.device
    on_gpu: int = 0
    kept: int = 0

    @property
    def plane(self) -> int:
        """Return the voxels of one slice across the slab axis."""
        return math.prod(self.windows.shape) // self.windows.shape[self.windows.slab_axis]

    def slab(self, dtype: torch.dtype) -> int:
        """Return the bytes of the slab, its weights and the copies that are made of one label of it."""
        slices = self.windows.roi_size[self.windows.slab_axis] + 1
        return slices * self.plane * (self.labels * dtype.itemsize + 3 * F32_BYTES)

    @property
    def restoring(self) -> int:
        """Return the bytes of a block of the scan, its boundary points and their logits, all of it boundary."""
        rows = min(CHUNK_POINTS * 8, 3 * self.plane)
        logits = self.labels * F32_BYTES
        return BLOCK_VOXELS * 40 + CHUNK_POINTS * (POINT_BYTES + logits) + 2 * rows * logits


def make_plan(needs: MemoryEstimate, limit: int | None, name: str) -> MemoryPlan:
    """Choose the first of these that fits: all as the bundle says, smaller batches, the slab in RAM, half precision.

    Args:
        needs: what the volume needs.
        limit: bytes for the process, and on a GPU, too; None for the free memory, which never rejects a scan.
        name: name of the scan in errors.

    Raises:
        MemoryLimitError: nothing fits into the limit that was asked for.
    """
    on_gpu = needs.network_device.type == "cuda"
    ram = limit or needs.resident + int(psutil.virtual_memory().available)
    vram = (limit or _free_on_gpu(needs.network_device)) if on_gpu else 0
    plans = [
        _predict(needs, MemoryPlan(batch, dtype, device))
        for dtype in (torch.float32, torch.float16)
        for device in dict.fromkeys((needs.network_device, CPU))
        for batch in (needs.batch_size >> halved for halved in range(needs.batch_size.bit_length()))
    ]
    for plan in plans:
        if plan.ram_bytes <= ram and plan.vram_bytes <= vram:
            return plan
    smallest = min(plans, key=lambda plan: (plan.vram_bytes, plan.ram_bytes))
    if limit is None:
        return smallest
    asked = [f"{megabytes(smallest.ram_bytes)} MB of memory"]
    if on_gpu:
        asked.append(f"{megabytes(smallest.vram_bytes)} MB on the GPU")
    raise MemoryLimitError(
        f"{name}: needs {' and '.join(asked)}, --max-memory allows {megabytes(ram)} MB; allow more, "
        "or use a bundle with fewer labels or smaller windows"
    )


def _free_on_gpu(device: torch.device) -> int:
    """Return the bytes on a GPU that are free or held by torch."""
    return int(torch.cuda.mem_get_info(device)[0]) + torch.cuda.memory_reserved(device)


def _predict(needs: MemoryEstimate, plan: MemoryPlan) -> MemoryPlan:
    taken = {"cpu": needs.resident + needs.result, "cuda": needs.on_gpu}
    taken[needs.network_device.type] += plan.batch_size * needs.network + needs.kept
    taken[plan.device.type] += needs.slab(plan.dtype) + needs.restoring
    return replace(plan, ram_bytes=taken["cpu"], vram_bytes=taken["cuda"] if needs.network_device.type == "cuda" else 0)

"""One volume from the network's input to values in the scan's grid, a slab at a time."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from numpy.typing import NDArray

from tomoseg.core.memory import OUT_OF_MEMORY_ERRORS, is_out_of_memory, release_unused
from tomoseg.core.run_stats import RunStats
from tomoseg.inference.sliding_window.blend import Blend, Predictor, Slab
from tomoseg.inference.sliding_window.confidence import ConfidenceSums
from tomoseg.inference.sliding_window.discretizer import Discretizer
from tomoseg.inference.sliding_window.memory_plan import MemoryEstimate, MemoryPlan, make_plan
from tomoseg.inference.sliding_window.peak_memory import CPU, PeakMemory
from tomoseg.inference.sliding_window.placement import NotRecognisedError, Placement
from tomoseg.inference.sliding_window.restore import Restorer
from tomoseg.inference.sliding_window.windows import Corner, importance_map, pad_volume, place_windows

# called with the number of windows that are done and of all of them
OnWindow = Callable[[int, int], None]
Corners = Sequence[Corner]


@dataclass(frozen=True)
class Limits:
    """What a run may take.

    Attributes:
        memory_bytes: of the whole process, and of its part of the GPU; None for no limit.
        skip_empty: whether windows that hold one value only are run once for all of them.
        batch_size: windows at once at most; None for what the inferer says.
    """

    memory_bytes: int | None = None
    skip_empty: bool = False
    batch_size: int | None = None


@dataclass(frozen=True)
class Output:
    """Something that is made of the logits in the scan's grid.

    Attributes:
        values: filled in place.
        placement: where the voxels of `values` lie in the network's grid.
        discretizer: turns logits into values.
        logits: picks its logits (some, D, H, W) out of all of them (labels, D, H, W).
        sums: added up over these logits; None for none.
    """

    values: NDArray[Any]
    placement: Placement
    discretizer: Discretizer
    logits: Callable[[torch.Tensor], torch.Tensor]
    sums: ConfidenceSums | None = None


@dataclass
class StreamedRun:
    """One volume on its way from windows to the outputs in the scan's grid.

    Attributes:
        image: (C, D, H, W), on the device of the network.
        inferer: window, overlap and blending.
        predict: the network.
        make_outputs: returns the outputs for a number of logits.
        limits: limits of the run.
        name: what errors call the scan.
    """

    image: torch.Tensor
    inferer: SlidingWindowInferer
    predict: Predictor
    make_outputs: Callable[[int], Sequence[Output]]
    limits: Limits
    name: str

    def __post_init__(self) -> None:
        self.windows = place_windows(self.image.shape[1:], self.inferer)
        self.image = pad_volume(self.image, self.windows, self.inferer)
        self.plan = MemoryPlan(1, torch.float32, self.image.device)  # until the first window is measured
        self.skipped = 0
        self.notes: list[str] = []
        self.network_s = self.restoring_s = 0.0
        self._outputs: Sequence[Output] = ()
        self._blend: Blend | None = None
        self._restorers: list[Restorer] = []
        self._constant: tuple[float, torch.Tensor] | None = None  # logits of a window that holds one value only

    def run(self, on_window: OnWindow | None = None) -> RunStats:
        """Run all windows of a volume, fill the outputs, and return what that took.

        Args:
            on_window: called after each batch of windows.

        Raises:
            NotRecognisedError: the network does not give one map of logits of the window's size.
            MemoryLimitError: the limits cannot be kept.
        """
        begin = time.perf_counter()
        for done in self.windows_done():
            if on_window is not None:
                on_window(done, self.windows.count)
        blending_s = time.perf_counter() - begin - self.network_s - self.restoring_s
        seconds = {"network": self.network_s, "blending": blending_s, "restoring": self.restoring_s}
        return RunStats(
            seconds, self.windows.count, self.skipped, notes=tuple(self.notes),
            planned_bytes=self.plan.ram_bytes, planned_vram_bytes=self.plan.vram_bytes,
        )  # fmt: skip

    def windows_done(self) -> Iterator[int]:
        """Run window after window; yield the number of finished ones."""
        done = 0
        groups = self.windows.groups
        for index, (start, corners) in enumerate(groups):
            pending = list(corners)
            while pending:
                logits = self._logits(pending) if self._blend else self._first_logits(pending)
                assert self._blend is not None
                for corner, logit in zip(pending, logits, strict=False):
                    self._blend.add(corner, logit)
                del pending[: len(logits)]
                done += len(logits)
                del logits, logit  # the next batch needs the memory
                yield done
            assert self._blend is not None
            last = index + 1 == len(groups)
            slices = self.windows.roi_size[self.windows.slab_axis] if last else groups[index + 1][0] - start
            slab = self._blend.finish(slices, start)
            if slab is not None:
                self._restore(slab)
                slab = None  # it is a view of the blend, and would keep it on a GPU that is left
            if not last:
                self._blend.advance(slices)
        for restorer in self._restorers:
            restorer.finish()

    def _first_logits(self, pending: Corners) -> Sequence[torch.Tensor]:
        """Run the first window, and plan the rest by its memory and its output."""
        if self.limits.memory_bytes is not None:
            release_unused()
        with PeakMemory(self.image.device) as peak:
            logits = self._logits(pending)
        labels = logits[0].shape[0]
        self._outputs = self.make_outputs(labels)
        on_gpu = self.image.device.type == "cuda"
        batch_size = self.inferer.sw_batch_size
        needs = MemoryEstimate(
            self.windows, labels, min(batch_size, self.limits.batch_size or batch_size),
            resident=peak.bytes if on_gpu else peak.before_bytes,
            network=peak.vram_bytes - peak.vram_before_bytes if on_gpu else peak.bytes - peak.before_bytes,
            result=sum(output.values.nbytes for output in self._outputs),
            network_device=self.image.device, on_gpu=peak.vram_before_bytes,
            kept=logits[0].nbytes if self.limits.skip_empty else 0,
        )  # fmt: skip
        self.plan = make_plan(needs, self.limits.memory_bytes, self.name)
        if self.plan.dtype != torch.float32:
            self.notes.append("logits kept in half precision to fit the memory")
        if self.plan.device != self.image.device:
            self.notes.append("logits kept in RAM to fit the memory of the GPU")
        weights = importance_map(self.windows, self.inferer, self.image.device)
        try:
            self._blend = Blend(self.windows, weights, logits[0], self.plan.dtype, self.plan.device)
        except OUT_OF_MEMORY_ERRORS as error:
            self._leave_gpu(error)
            self._blend = Blend(self.windows, weights, logits[0], self.plan.dtype, self.plan.device)
        axis = self.windows.slab_axis
        self._restorers = [
            Restorer(one.values, one.placement, axis, one.discretizer, one.sums) for one in self._outputs
        ]
        return logits

    def _logits(self, pending: Corners) -> Sequence[torch.Tensor]:
        """Return the logits (labels, D, H, W) of as many of the next windows as are run at once."""
        value = self._constant_value(pending[0]) if self.limits.skip_empty else None
        if value is not None and self._constant is not None and self._constant[0] == value:
            self.skipped += 1
            return [self._constant[1]]
        while True:
            batch = pending[: self.plan.batch_size if value is None else 1]
            if self.limits.skip_empty and value is None:
                batch = list(takewhile(lambda corner: self._constant_value(corner) is None, batch))
            try:
                logits = list(self._run(batch))
                if value is not None:
                    self._constant = value, logits[0].clone()
                return logits
            except OUT_OF_MEMORY_ERRORS as error:
                if not is_out_of_memory(error):
                    raise
                plan = self.plan.step_down()
                if plan is None:
                    raise MemoryError(str(error)) from error
            self._step_down(plan)

    def _run(self, corners: Corners) -> torch.Tensor:
        """Run the network on windows; return (B, labels, D, H, W) where the slab lives."""
        batch = torch.stack([self._window(corner) for corner in corners])
        begin = time.perf_counter()
        logits = self.predict(batch)
        _wait(batch.device)
        self.network_s += time.perf_counter() - begin
        if not isinstance(logits, torch.Tensor):
            raise NotRecognisedError(f"a network that returns a {type(logits).__name__}")
        if logits.shape[2:] != batch.shape[2:]:
            raise NotRecognisedError("a network whose logits are not of its window's size")
        if logits.device != self.plan.device:  # only ever from the GPU to RAM
            staged = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True)
            staged.copy_(logits, non_blocking=True)
            _wait(logits.device)
            return staged
        return logits

    def _restore(self, slab: Slab) -> None:
        """Fill in what the slab decides."""
        _wait(slab.logits.device)
        begin = time.perf_counter()
        for output, restorer in zip(self._outputs, self._restorers, strict=True):
            try:
                restorer.feed(Slab(slab.start, output.logits(slab.logits)))
            except OUT_OF_MEMORY_ERRORS as error:
                self._leave_gpu(error)
                assert self._blend is not None
                slab = self._blend.moved(slab)
                restorer.feed(Slab(slab.start, output.logits(slab.logits)))  # it fills in the same voxels again
        self.restoring_s += time.perf_counter() - begin

    def _leave_gpu(self, error: Exception) -> None:
        """Move the slab to RAM if an error says that the GPU's memory ran out; otherwise raise it."""
        if self.plan.device.type != "cuda" or not is_out_of_memory(error):
            raise error
        self._step_down(replace(self.plan, device=CPU))

    def _step_down(self, plan: MemoryPlan) -> None:
        if plan.device != self.plan.device:
            self.notes.append("memory ran out on the GPU: the logits were moved to RAM")
            if self._blend is not None:
                self._blend.to(plan.device)
            torch.cuda.empty_cache()
        else:
            self.notes.append(f"memory ran out: went on with {plan.batch_size} windows at once")
        self.plan = plan

    def _window(self, corner: Corner) -> torch.Tensor:
        window = self.image
        for axis, (start, length) in enumerate(zip(corner, self.windows.roi_size, strict=True)):
            window = window.narrow(axis + 1, start, length)
        return window

    def _constant_value(self, corner: Corner) -> float | None:
        """Return the one value that all voxels of a window have, None if they differ."""
        low, high = torch.aminmax(self._window(corner))
        return float(low) if low == high else None


def _wait(device: torch.device) -> None:
    """Wait for a GPU, so that each stage is charged with its own time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""What the segmentation of one scan took: time, memory, and what ran the network."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunStats:
    """What the segmentation of one scan took, and what ran the network.

    Attributes:
        seconds: time of each stage, in the order in which the stages ran.
        windows: number of windows of the network.
        skipped_windows: windows whose output was known from another window with the same voxels.
        planned_bytes, peak_bytes: memory of the process, as predicted and as measured; 0 where nothing was predicted.
        planned_vram_bytes, peak_vram_bytes: the same on the GPU; 0 without one.
        backend: "torch", "torch.compile" or "openvino"; empty where no network ran.
        precision: "fp32", "bf16", "fp16" or "int8"; empty where no network ran.
        notes: deviations from the usual way.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    windows: int = 0
    skipped_windows: int = 0
    planned_bytes: int = 0
    peak_bytes: int = 0
    planned_vram_bytes: int = 0
    peak_vram_bytes: int = 0
    backend: str = ""
    precision: str = ""
    notes: tuple[str, ...] = ()

    def __add__(self, other: RunStats) -> RunStats:
        """Return both together: times and windows add up, of memory the larger counts, each note is kept once."""
        return RunStats(
            seconds=self.seconds | {stage: self.seconds.get(stage, 0.0) + s for stage, s in other.seconds.items()},
            windows=self.windows + other.windows,
            skipped_windows=self.skipped_windows + other.skipped_windows,
            planned_bytes=max(self.planned_bytes, other.planned_bytes),
            peak_bytes=max(self.peak_bytes, other.peak_bytes),
            planned_vram_bytes=max(self.planned_vram_bytes, other.planned_vram_bytes),
            peak_vram_bytes=max(self.peak_vram_bytes, other.peak_vram_bytes),
            backend=other.backend or self.backend,
            precision=other.precision or self.precision,
            notes=tuple(dict.fromkeys((*self.notes, *other.notes))),
        )

    @property
    def total_seconds(self) -> float:
        """Time of all stages together, 0 where none was measured."""
        return sum(self.seconds.values())

"""How a bundle is run, as a user asks for it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tomoseg.core.errors import UsageError
from tomoseg.core.threads import choose_threads

UNITS = {
    "": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
# what `tomoseg.transforms` can do to a scan before the bundle gets it
CLEANERS = ("non-finite", "denoise", "denoise-curvature", "bias-field")
WHOLE = "whole"  # a region of interest: the scan as it is


@dataclass(frozen=True)
class Options:
    """How a bundle is run; the default of each is what the bundle itself would do.

    Args:
        device: "auto" (CUDA where there is one, else the CPU), "cpu", "cuda" or "cuda:N".
        backend: "auto" (OpenVINO on a CPU where it is installed, else torch), "torch" or "openvino".
        precision: "auto" (fp16 on a GPU if the bundle's evaluator has `amp`, else fp32), "fp32", "bf16", "fp16", or
            "int8" for the network that `tomoseg export` has put beside the weights.
        overlap: share of the sliding window by which neighbours overlap, in [0, 1); None for the bundle's own.
        tta: average the predictions over the mirrorings that the bundle declares in `mirror_axes`.
        max_memory: limit for the process, and for its part of the GPU, in bytes or as "6GB"; None for no limit.
        uncertainty: make a map of the entropy, too.
        skip_empty: run windows that hold one value only once for all of them; None for the bundle's `skip_empty`.
        checkpoints: paths of weights in place of the bundle's own; the scores of several are averaged. One that ends
            in .xml is the bundle's own network in int8, wherever `tomoseg export` has put it.
        compile: let torch compile the network first.
        clean: what is done to a scan before the bundle gets it, in this order: some of `CLEANERS`.
        roi: for a bundle that was trained on crops, where its structures are: for each region "NAME=X,Y,Z" with the
            centre of its box, or "NAME=X,Y,Z,X,Y,Z" with two corners, in RAS+ mm of the scan; or "whole" for scans that
            are such crops. Without it, whole scans are told by their extent, and the structures are looked for.
        threads: number of threads of the process; None for `OMP_NUM_THREADS`, else for the cores it may use.

    Raises:
        UsageError: a value is out of range.
    """

    device: str = "auto"
    backend: str = "auto"
    precision: str = "auto"
    overlap: float | None = None
    tta: bool = False
    max_memory: int | str | None = None
    uncertainty: bool = False
    skip_empty: bool | None = None
    checkpoints: tuple[str, ...] = ()
    compile: bool = False
    clean: tuple[str, ...] = ()
    roi: tuple[str, ...] = ()
    threads: int | None = None

    def __post_init__(self) -> None:
        require_device_name(self.device)
        if self.overlap is not None and not 0 <= self.overlap < 1:
            raise UsageError(f"overlap: expected a share from 0 to below 1, got {self.overlap}")
        if isinstance(self.checkpoints, str):
            raise UsageError(f"checkpoints: expected a list of paths, got one: {self.checkpoints!r}")
        unknown = [name for name in self.clean if name not in CLEANERS]
        if isinstance(self.clean, str) or unknown:
            raise UsageError(f"clean: expected some of {', '.join(CLEANERS)}, got {self.clean!r}")
        if isinstance(self.roi, str):
            raise UsageError(f"roi: expected a list of places, got one: {self.roi!r}")
        choose_threads(self.threads)
        _ = self.max_memory_bytes

    @property
    def max_memory_bytes(self) -> int | None:
        return None if self.max_memory is None else parse_size(self.max_memory)


def require_device_name(name: str) -> None:
    """Raise UsageError if a name is not "auto", "cpu", "cuda" or "cuda:N"; whether the device exists is not checked."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name, re.ASCII):
        raise UsageError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}")


def parse_size(size: int | str) -> int:
    """Return bytes for a number of bytes or a text such as "6GB", "6.5 GB" or "500MiB".

    Raises:
        UsageError: it is neither, or not above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B?)\s*", str(size).upper())
    unit = found[2] if found else "?"
    unit = unit if unit.endswith("B") or not unit else f"{unit}B"
    factor = 1 if unit == "B" else UNITS.get(unit)
    number = round(float(found[1]) * factor) if found and factor else 0
    if number <= 0:
        raise UsageError(f"max_memory: expected a size such as 6GB or 500MB, got {str(size)!r}")
    return number

"""Options to run a bundle, for the command line, Python and Ray's workers."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from tomoseg.core.errors import UsageError
from tomoseg.core.options import Option, require_choices
from tomoseg.core.reading import ReadOptions
from tomoseg.core.threads import choose_threads

BackendName = Literal["auto", "torch", "openvino"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16", "int8"]
CleanerName = Literal["non-finite", "denoise", "denoise-curvature", "bias-field"]
DEVICES = "auto|cpu|cuda[:N]|mps"
WHOLE = "whole"  # a region of interest: the whole scan


@dataclass(frozen=True)
class RunOptions:
    """Options to run a bundle. The defaults are the bundle's own settings.

    Attributes:
        device: device of the network; auto is the first CUDA GPU, else the CPU; mps is Apple's GPU.
        backend: backend of the network; auto is OpenVINO on a CPU where it is installed, else torch.
        precision: precision of the network; auto is fp16 on a GPU if the bundle's evaluator has `amp`, bf16 on a CPU
            that gains by it if the bundle was measured to lose nothing (`tomoseg doctor --measure`), else fp32; int8
            runs on CPUs, and other bundles than those of tomoseg need `tomoseg export` first.
        fast: run in int8, as --precision int8 does.
        overlap: overlap of neighbouring windows, a share in [0, 1).
        tta: average the predictions over mirrorings along the bundle's `mirror_axes`; slower.
        max_memory: limit of RAM, and of the GPU's memory, in bytes or as in 6GB.
        read_timeout: time limit for reading a scan, in seconds.
        allow_large: read scans that need more than 80 % of the free memory, or more than --max-memory.
        fill_gaps: interpolate slices where a DICOM series lacks some, or has an uneven spacing.
        one_series: take DICOM images together that each have a SeriesInstanceUID or a FrameOfReferenceUID of their own.
        uncertainty: write a map of the entropy beside each label map.
        skip_empty: run the network once for all windows of one constant value, such as air.
        checkpoints: weights in place of the bundle's; the logits of several are averaged. A file that ends in .xml is
            the bundle's own network in int8, as `tomoseg export` writes it.
        compile: compile the network with torch.compile first; useful for many scans.
        clean: clean each scan first, in the given order.
        roi: for a bundle that was trained on crops: NAME=X,Y,Z with the centre of a region's box or NAME=X,Y,Z,X,Y,Z
            with two corners, in RAS+ mm of the scan, or "whole" for scans that are such crops. By default tomoseg
            recognises whole scans by their extent, and searches for the regions.
        labels: only these labels in all outputs: names, or patterns such as "parotid*", with commas between them.
        threads: threads of the process; by default OMP_NUM_THREADS, else the cores that it may use.

    Raises:
        UsageError: a value is out of range.

    Example:
        >>> import tomoseg
        >>> tomoseg.RunOptions(device="cpu", tta=True, max_memory="6GB").max_memory_bytes
        6000000000
    """

    device: Annotated[str, Option(DEVICES)] = "auto"
    backend: BackendName = "auto"
    precision: PrecisionName = "auto"
    fast: bool = False
    overlap: Annotated[float | None, Option("SHARE")] = None
    tta: bool | None = None
    max_memory: Annotated[int | str | None, Option("SIZE")] = None
    read_timeout: Annotated[float, Option("SECONDS")] = 600
    allow_large: bool = False
    fill_gaps: bool = False
    one_series: bool = False
    uncertainty: bool = False
    skip_empty: bool | None = None
    checkpoints: Annotated[tuple[str, ...], Option("WEIGHTS", ("--checkpoint",))] = ()
    compile: bool = False
    clean: tuple[CleanerName, ...] = ()
    roi: Annotated[tuple[str, ...], Option(f"NAME=X,Y,Z|{WHOLE}")] = ()
    labels: Annotated[tuple[str, ...], Option("NAME,PATTERN*")] = ()
    threads: Annotated[int | None, Option("N")] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", device_name(self.device))
        if self.fast:
            if self.precision not in ("auto", "int8"):
                raise UsageError(f"fast: is --precision int8, and does not go with --precision {self.precision}")
            object.__setattr__(self, "precision", "int8")
        if self.overlap is not None and not 0 <= self.overlap < 1:
            raise UsageError(f"overlap: expected a share from 0 to below 1, got {self.overlap}")
        require_choices(self)
        choose_threads(self.threads)
        _ = self.reading

    @property
    def max_memory_bytes(self) -> int | None:
        """Limit of memory in bytes; None without a limit."""
        return None if self.max_memory is None else parse_size(self.max_memory)

    @property
    def reading(self) -> ReadOptions:
        """How one scan is read."""
        return ReadOptions(self.read_timeout, self.allow_large, self.fill_gaps, self.one_series, self.max_memory_bytes)


def device_name(name: str) -> str:
    """Return torch's name of a device that a user gives, or "auto"; whether the device exists is not checked.

    Args:
        name: "auto", "cpu", "cuda", "cuda:N", "mps" (Apple's GPU), or "gpu", which is "cuda".

    Raises:
        UsageError: it is none of these.
    """
    name = "cuda" if name == "gpu" else name
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name, re.ASCII):
        raise UsageError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}")
    return name


def parse_size(size: int | str, option: str = "max_memory") -> int:
    """Return bytes for a number of bytes or a text such as "6GB", "6.5 GB" or "500MiB".

    Raises:
        UsageError: it is neither, or not above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(I?))?B?\s*", str(size).upper())
    number = 0
    if found:
        factor = 1024 if found[3] else 1000
        number = round(float(found[1]) * factor ** (" KMGT".index(found[2] or " ")))
    if number <= 0:
        raise UsageError(f"{option}: expected a size such as 6GB or 500MB, got {str(size)!r}")
    return number

"""What a network can be exported to."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch

from tomoseg.convert.export import runtimes
from tomoseg.convert.export.export_source import ExportSource
from tomoseg.convert.export.options import FormatName
from tomoseg.convert.export.parity import Parity, Runner
from tomoseg.convert.export.samples import Samples
from tomoseg.core.errors import MissingPackageError, UsageError

# largest difference of a logit from torch's in fp32, relative to their range
FP32_TOLERANCE: Final = 1e-3
TF32_TOLERANCE: Final = 1e-2  # TensorRT computes fp32 with 10 bits, as MONAI's own check allows it


@dataclass(frozen=True)
class Format:
    """A kind of file, how it is written and how it is run.

    Attributes:
        name: as the user calls it.
        ending: of the file that lies beside the weights, after their own name.
        write: writes the file; each item of the iterator is another way to do it, with a note.
        read: loads the file into its runtime.
        packages: required packages.
        extra: the extra of tomoseg that brings them; none where tomoseg itself needs them.
        tolerance: of the logits; None where the labels decide.
        gpu: whether it needs an NVIDIA GPU.
    """

    name: FormatName
    ending: str
    write: Callable[[ExportSource, Path, Samples], Iterator[str]]
    read: Callable[[Path], Runner]
    packages: tuple[str, ...] = ()
    extra: str = "export"
    tolerance: float | None = FP32_TOLERANCE
    gpu: bool = False

    @property
    def suffix(self) -> str:
        """What the file's name must end in."""
        return Path(self.ending).suffix or self.ending

    @property
    def calibrated(self) -> bool:
        """Whether it needs real scans."""
        return self.tolerance is None

    def require(self) -> None:
        """Make sure that it can be written and run here.

        Raises:
            MissingPackageError: a package is not installed.
            UsageError: there is no GPU.
        """
        for package in self.packages:
            if find_spec(package) is None:
                raise MissingPackageError(package, self.extra)
        if self.gpu and not torch.cuda.is_available():
            raise UsageError(f"format: {self.name} is made for the NVIDIA GPU of this computer, and there is none")

    def reason(self, parity: Parity, max_dice_loss: float) -> str:
        """Return why a network that came this near is not kept, "" if it is."""
        if self.tolerance is not None:
            off = parity.largest_difference
            return "" if off <= self.tolerance else f"its logits are off by {off:.2g} of their range"
        if parity.mean_dice is None:
            return "there is no label in the windows that it was checked on. Give other scans with --calibration"
        if 1 - parity.mean_dice <= max_dice_loss:
            return ""
        return f"its labels have a mean Dice of {parity.mean_dice:.4f} with those of fp32; --max-dice-loss allows more"


FORMATS: Final[dict[str, Format]] = {
    entry.name: entry
    for entry in (
        Format("onnx", ".onnx", runtimes.write_onnx, runtimes.read_onnx, ("onnx", "onnxscript", "onnxruntime")),
        Format("torchscript", ".ts", runtimes.write_torchscript, runtimes.read_torchscript),
        Format("torch-export", ".pt2", runtimes.write_program, runtimes.read_program),
        Format("openvino", ".xml", runtimes.write_openvino, runtimes.read_openvino, ("openvino",), extra=""),
        Format(
            "openvino-int8", "_int8.xml", runtimes.write_int8, runtimes.read_openvino, ("openvino", "nncf"),
            tolerance=None,
        ),
        Format(
            "tensorrt", "_trt.ts", runtimes.write_tensorrt, runtimes.read_tensorrt, ("torch_tensorrt",), "tensorrt",
            TF32_TOLERANCE, True,
        ),
    )
}  # fmt: skip

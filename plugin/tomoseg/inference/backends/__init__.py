"""What runs a network: PyTorch on CPUs and GPUs, OpenVINO on CPUs."""

from collections.abc import Collection
from importlib.util import find_spec
from typing import Final, Protocol

import torch

from tomoseg.core.errors import MissingPackageError, UsageError
from tomoseg.inference.backends.int8_network import Int8Network
from tomoseg.inference.backends.openvino_network import OpenvinoNetwork
from tomoseg.inference.backends.torch_network import TorchNetwork

__all__ = ["Backend", "choose_backend", "choose_precision", "computes_faster", "make_backend"]

# a processor gains by one of these instructions, named as in `torch.cpu.get_capabilities`
INSTRUCTIONS: Final = {"bf16": ("amx_bf16", "avx512_bf16")}


class Backend(Protocol):
    """A network that is ready to run.

    Attributes:
        name: "torch", "torch.compile" or "openvino".
        precision: "fp32", "bf16", "fp16" or "int8".
        batch_size: windows that are worth running at once; None for as many as the bundle says.
    """

    name: str
    precision: str
    batch_size: int | None

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Compile for batches of windows (B, C, D, H, W) of this shape, if there is anything to compile.

        Raises:
            BackendError: the network cannot be compiled.
        """

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, labels, D, H, W) of a batch (B, C, D, H, W), good until the next call."""


def choose_backend(name: str, device: torch.device, precision: str = "fp32") -> str:
    """Return "torch" or "openvino" for a `BackendName`; auto is OpenVINO on a CPU where it is installed.

    Args:
        name: name of the backend option.
        device: device of the network.
        precision: precision of the network; only OpenVINO has int8.

    Raises:
        UsageError: the backend does not run on the device, or not in this precision.
        MissingPackageError: it is not installed.
    """
    if precision == "int8":
        if name == "torch":
            raise UsageError("backend: torch does not run int8. Use --backend openvino")
        name = "openvino"
    if name == "auto":
        return "openvino" if device.type == "cpu" and find_spec("openvino") else "torch"
    if name == "openvino":
        if device.type != "cpu":
            raise UsageError(f"backend: openvino runs on the CPU, the device is {device}. Use --backend torch")
        if not find_spec("openvino"):
            raise MissingPackageError("openvino")
    return name


def computes_faster(precision: str) -> bool:
    """Return whether this processor has instructions that make a precision faster than fp32."""
    found: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10 has none
    return any(found.get(name, False) for name in INSTRUCTIONS[precision])


def choose_precision(name: str, device: torch.device, amp: bool, safe: Collection[str] = ()) -> str:
    """Return "fp32", "bf16", "fp16" or "int8" for a `PrecisionName`.

    auto is what the bundle's evaluator would use on a GPU, and the fastest safe one on a CPU that gains by it.

    Args:
        name: name of the precision option.
        device: device of the network.
        amp: whether the bundle's evaluator runs with automatic mixed precision, which MONAI does on GPUs only.
        safe: precisions that were measured to leave the bundle's labels as good.

    Raises:
        UsageError: the device does not have it.
    """
    if name == "auto" and device.type == "cpu":
        return next((one for one in INSTRUCTIONS if one in safe and computes_faster(one)), "fp32")
    if name == "auto":
        return "fp16" if amp and device.type == "cuda" else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise UsageError("precision: fp16 needs a GPU. Use --precision bf16 on a CPU")
    if name == "int8" and device.type != "cpu":
        raise UsageError(f"precision: int8 runs on the CPU, the device is {device}. Use --device cpu")
    return name


def make_backend(
    name: str,
    network: torch.nn.Module,
    device: torch.device,
    precision: str,
    key: str,
    compiled: bool,
    int8: Int8Network | None = None,
) -> Backend:
    """Return a network on a backend.

    Args:
        name: "torch" or "openvino".
        network: with its weights, on its device.
        device: where it runs.
        precision: "fp32", "bf16", "fp16" or "int8".
        key: hash of the weights, name of the compiled network in the cache. Empty for no cache.
        compiled: whether torch compiles it first.
        int8: the network in int8, which is run in its place; None for other precisions.
    """
    if name == "openvino":
        return OpenvinoNetwork(network, precision, key, int8)
    return TorchNetwork(network, device, precision, compiled)

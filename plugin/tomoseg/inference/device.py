"""The device that a network runs on."""

from typing import Final

import torch

from tomoseg.bundle.options import device_name
from tomoseg.core.errors import UsageError

CPU: Final = torch.device("cpu")


def choose_device(name: str) -> torch.device:
    """Return the device for a name that a user gives.

    Args:
        name: "auto" (CUDA where there is a GPU, else the CPU), "cpu", "cuda" or "gpu", "cuda:N", "mps".

    Raises:
        UsageError: the name is none of these, or there is no such GPU.
    """
    name = device_name(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device: mps asked for, but torch finds no GPU of Apple here. Use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UsageError(f"device: {name} asked for, but there are {count} CUDA devices. Use --device cpu")
    return device

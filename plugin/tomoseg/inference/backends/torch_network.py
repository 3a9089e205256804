"""Networks run by PyTorch."""

import os

import torch

from tomoseg.core.errors import BackendError, errors_as
from tomoseg.core.files import private_cache

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchNetwork:
    """A network run by PyTorch, in full precision or under autocast.

    Args:
        network: with its weights, on its device.
        device: where it runs.
        precision: "fp32", "bf16" or "fp16".
        compiled: whether `torch.compile` is applied.
    """

    def __init__(self, network: torch.nn.Module, device: torch.device, precision: str, compiled: bool) -> None:
        self.name = "torch.compile" if compiled else "torch"
        self.precision = precision
        self.batch_size: int | None = None
        self._device = device
        self._compiled = compiled
        if compiled:  # torch's own choice is a folder that others may make first
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(private_cache("inductor")))
        self._network = torch.compile(network) if compiled else network

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Compile by running a window of zeros once, where compiling was asked for."""
        if not self._compiled:
            return
        # torch's compiler and the network are foreign code
        with errors_as(BackendError, "torch.compile cannot compile the network", Exception):
            self(torch.zeros((1, *shape[1:]), device=self._device))
        self._compiled = False

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch, float32."""
        if self.precision == "fp32":
            logits: torch.Tensor = self._network(batch)
            return logits
        with torch.autocast(self._device.type, DTYPES[self.precision]):
            logits = self._network(batch)
        return logits.float() if isinstance(logits, torch.Tensor) else logits

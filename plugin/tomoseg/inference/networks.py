"""The networks of a bundle with their weights, on the backend that runs them."""

import torch

from tomoseg.bundle.options import RunOptions
from tomoseg.core.errors import BackendError, UsageError, one_line
from tomoseg.inference.backends import Backend, choose_backend, choose_precision, make_backend
from tomoseg.inference.config import InferenceConfig
from tomoseg.inference.weights import asks_for_int8, hash_weights, weights_in_use


class Networks:
    """One network for each checkpoint; the mean of their output counts.

    Args:
        config: the bundle's.
        device: where they run.
        options: backend, precision, checkpoints and whether torch compiles them first.

    Attributes:
        modules: the networks as PyTorch has them, on the device.
        precision: "fp32", "bf16", "fp16" or "int8".
        checkpoint_sha256: as `hash_weights` returns it.

    Raises:
        BundleError: a checkpoint is missing, damaged, or does not fit the network.
        UsageError: the options do not go together.
    """

    def __init__(self, config: InferenceConfig, device: torch.device, options: RunOptions) -> None:
        int8 = asks_for_int8(options)
        if int8 and options.precision not in ("auto", "int8"):
            raise UsageError(f"checkpoint: one is in int8, which does not go with --precision {options.precision}")
        self.precision = choose_precision("int8" if int8 else options.precision, device, config.amp)
        name = choose_backend(options.backend, device, self.precision)
        if options.compile and (options.backend == "openvino" or int8):
            raise UsageError("compile: is for the torch backend; use --backend torch")
        name = "torch" if options.compile else name
        weights = weights_in_use(config, options)
        self.modules = [config.load_network(one.checkpoint) for one in weights]
        self.checkpoint_sha256 = hash_weights(weights)
        self._device = device
        self._backends: list[Backend] = [
            make_backend(name, module, device, self.precision, one.sha256, options.compile, one.int8)
            for module, one in zip(self.modules, weights, strict=True)
        ]
        self._may_fall_back = options.backend == "auto" and not options.compile and not int8
        self._note = ""

    @property
    def backend(self) -> str:
        """What runs them: "openvino", "torch" or "torch.compile"; certain once they were compiled."""
        return self._backends[0].name

    def compiled(self, shape: tuple[int, ...]) -> tuple[list[Backend], tuple[str, ...]]:
        """Return the backends, ready for windows of one shape, and a note where torch runs what OpenVINO cannot.

        Args:
            shape: (B, C, D, H, W).

        Raises:
            BackendError: a network cannot be compiled, and its backend was asked for.
        """
        try:
            for backend in self._backends:
                backend.prepare(shape)
        except BackendError as reason:
            if not self._may_fall_back:
                raise
            self._note = f"run by torch, for {one_line(reason)}"
            self._backends = self.on_torch()
        return self._backends, (self._note,) if self._note else ()

    def on_torch(self) -> list[Backend]:
        """Return the networks as PyTorch runs them, for inputs of any shape."""
        return [make_backend("torch", one, self._device, self.precision, "", compiled=False) for one in self.modules]

"""Networks with their weights, on the backend that runs them."""

from collections.abc import Sequence

import torch
from monai.inferers import SlidingWindowInferer

from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.precision import safe_precisions
from tomoseg.core.errors import BackendError, UsageError, one_line
from tomoseg.inference.backends import Backend, choose_backend, choose_precision, make_backend
from tomoseg.inference.config import InferenceConfig
from tomoseg.inference.sliding_window.windows import place_windows
from tomoseg.inference.weights import CheckpointSet, asks_for_int8, hash_weights, weights_in_use


class Networks:
    """Several networks, each on its backend; the mean of their output counts.

    Args:
        modules: the networks as PyTorch has them, with their weights, on the device.
        device: where they run.
        backends: one for each network.
        may_fall_back: whether torch runs what OpenVINO cannot compile.
        torch_precision: in which torch does.
        weights: where the modules have theirs from; empty where that is not known.

    Attributes:
        modules, weights: as given.
        precision: "fp32", "bf16", "fp16" or "int8".
    """

    def __init__(
        self,
        modules: Sequence[torch.nn.Module],
        device: torch.device,
        backends: Sequence[Backend],
        may_fall_back: bool,
        torch_precision: str,
        weights: Sequence[CheckpointSet] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.modules = list(modules)
        self.weights = list(weights)
        self.precision = backends[0].precision
        self._device = device
        self._backends = list(backends)
        self._may_fall_back = may_fall_back
        self._torch_precision = torch_precision
        self._notes = list(notes)

    @property
    def backend(self) -> str:
        """What runs them: "openvino", "torch" or "torch.compile"; certain once they were compiled."""
        return self._backends[0].name

    def compiled(self, shape: tuple[int, ...], inferer: SlidingWindowInferer) -> tuple[list[Backend], tuple[str, ...]]:
        """Return the backends, ready for the windows of a volume, and a note where torch runs what OpenVINO cannot.

        Args:
            shape: of the volume, (C, D, H, W).
            inferer: cuts the windows.

        Raises:
            BackendError: a network cannot be compiled, and its backend was asked for.
        """
        windows = (inferer.sw_batch_size, shape[0], *place_windows(shape[1:], inferer).roi_size)
        try:
            for backend in self._backends:
                backend.prepare(windows)
        except BackendError as reason:
            if not self._may_fall_back:
                raise
            self._notes.append(f"run by torch, for {one_line(reason)}")
            self._backends = self.on_torch()
        return self._backends, tuple(self._notes)

    def on_torch(self) -> list[Backend]:
        """Return the networks as PyTorch runs them, for inputs of any shape."""
        precision = self._torch_precision
        return [make_backend("torch", one, self._device, precision, "", compiled=False) for one in self.modules]


def load_networks(config: InferenceConfig, device: torch.device, options: RunOptions) -> Networks:
    """Load one network of a bundle for each checkpoint.

    Args:
        config: the bundle's.
        device: where they run.
        options: backend, precision, checkpoints and whether torch compiles them first.

    Raises:
        BundleError: a checkpoint is missing, damaged, or does not fit the network.
        UsageError: the options do not go together.
    """
    int8 = asks_for_int8(options)
    if int8 and options.precision not in ("auto", "int8"):
        raise UsageError(f"checkpoint: one is in int8, which does not go with --precision {options.precision}")
    weights = weights_in_use(config, options)
    asked = "int8" if int8 else options.precision
    name = choose_backend(options.backend, device, asked)
    safe = frozenset[str]()
    if asked == "auto" and name == "openvino" and not options.compile:  # the measurement is OpenVINO's
        safe = safe_precisions(config.bundle.root, hash_weights(weights), config.bundle.labels.values())
    precision = choose_precision(asked, device, config.amp, safe)
    if options.compile and (options.backend == "openvino" or int8):
        raise UsageError("compile: is for the torch backend. Use --backend torch")
    name = "torch" if options.compile else name
    own = [] if options.checkpoints else [config.ready(one.module) for one in config.networks]
    modules = own or [config.load_network(one.checkpoint) for one in weights if one.checkpoint is not None]
    backends = [
        make_backend(name, module, device, precision, one.sha256, options.compile, one.int8)
        for module, one in zip(modules, weights, strict=True)
    ]
    may_fall_back = options.backend == "auto" and not options.compile and not int8
    initial = not options.checkpoints and not all(one.loaded for one in config.networks)
    notes = ["nothing in the config loads weights: the network runs with its initial ones"] * initial
    on_torch = "fp32" if options.precision == "auto" and name == "openvino" else precision
    return Networks(modules, device, backends, may_fall_back, on_torch, weights, notes)

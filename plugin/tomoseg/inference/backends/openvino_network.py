"""Networks run by OpenVINO on CPUs, compiled once and kept on disk."""

import hashlib
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tomoseg.core.errors import BackendError, OutputError, one_line
from tomoseg.core.files import atomic_file, open_regular, private_cache
from tomoseg.core.memory import is_out_of_memory, release_unused
from tomoseg.inference.backends.fingerprint import describe_network
from tomoseg.inference.backends.int8_network import Int8Network
from tomoseg.inference.backends.openvino_model import (
    convert,
    exact_norms,
    import_openvino,
    labels_last,
    openvino_core,
)

# what an int8 network has left in floating point is computed as it was when it was checked
PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
DIGEST_BYTES = 32
STRIDES = (8, 16, 32)  # by which networks divide a window's axes, from the input to the coarsest level
SMALL = 2  # a window with a half of the voxels or less counts as small
CACHE_FORMAT = "labels last, exact norms"  # of the cache
# largest difference of a logit from torch's, relative to their range
PRECISION_TOLERANCES = {"fp32": 1e-3, "bf16": 0.2}


class OpenvinoNetwork:
    """A network run by OpenVINO, one window after the other.

    Args:
        network: with its weights, on the CPU.
        precision: "fp32", "bf16" or "int8"; a processor without bf16 computes in fp32.
        key: hash of the weights; empty to keep nothing on disk.
        int8: the network as it was exported in int8, which is run in its place; None for other precisions.
    """

    def __init__(self, network: torch.nn.Module, precision: str, key: str, int8: Int8Network | None = None) -> None:
        self.name = "openvino"
        self.precision = precision
        self.batch_size: int | None = 1  # all cores work on one window; more would only take more memory
        self._network = network
        self._key = key
        self._int8 = int8
        self._shape: tuple[int, ...] = ()
        self._request: Any = None

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Compile for windows of this shape, or load the cached network."""
        shape = (1, *shape[1:])
        if shape == self._shape:
            return
        ov = import_openvino()
        core = openvino_core()
        hints = {
            "INFERENCE_PRECISION_HINT": PRECISION_HINTS[self.precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        network = self._int8.sha256 if self._int8 else describe_network(self._network)
        processor = (core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES"))
        described = (network, shape, sorted(hints.items()), ov.get_version(), CACHE_FORMAT, *processor)
        name = f"{self._key[:16]}-{hashlib.sha256(repr(described).encode()).hexdigest()[:16]}.blob"
        path = private_cache("openvino") / name
        compiled = _load(core, path, hints) if self._key else None
        if compiled is None:
            if self._int8:
                compiled = _compile_int8(ov, core, self._int8.xml, shape, hints)
            else:
                compiled = self._compile(ov, core, shape, hints)
            if self._key:
                _keep(compiled, path)
        self._request = compiled.create_infer_request()
        self._shape = shape

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch, float32, good until the next call."""
        self.prepare(tuple(batch.shape))
        logits: list[torch.Tensor] = []
        for window in batch.contiguous():
            found = self._request.infer([window[None].numpy()], share_inputs=True, share_outputs=True)
            logits.append(torch.from_numpy(found[0]).movedim(-1, 1))
            if len(batch) > 1:  # the next window is written over it
                logits[-1] = logits[-1].clone()
        return torch.cat(logits) if len(logits) > 1 else logits[0]

    def _compile(self, ov: Any, core: Any, shape: tuple[int, ...], hints: dict[str, Any]) -> Any:
        """Return the network compiled, after making sure that it computes what torch computes.

        Both are run on a small window of another shape than the traced one, so that a shape that the trace has frozen
        is noticed; on a whole window only where the network takes none that is small.
        """
        for traced, checked in (*_small_windows(shape), (shape, shape)):
            try:
                model = convert(self._network, _window(traced))
                compiled = self._build(ov, core, model, checked, hints)
                difference = self._difference(compiled, 2 * _window(checked) + 1)  # to detect a frozen branch
                if difference <= PRECISION_TOLERANCES[self.precision]:
                    return compiled if checked == shape else self._build(ov, core, model, shape, hints)
                reason: Exception = ValueError(f"its logits are off by {difference:.2g} of their range")
            except Exception as error:  # OpenVINO, torch.jit.trace and the network are foreign code
                if is_out_of_memory(error):
                    raise MemoryError(one_line(error)) from error
                reason = error
        raise BackendError(f"OpenVINO cannot compile the network: {one_line(reason)}")

    def _build(self, ov: Any, core: Any, model: Any, shape: tuple[int, ...], hints: dict[str, Any]) -> Any:
        """Return a copy of a model compiled for windows of a shape."""
        copy = model.clone()
        copy.reshape({copy.input(0): list(shape)})
        if self.precision == "fp32":
            exact_norms(copy)
        return core.compile_model(labels_last(ov, copy), "CPU", hints)

    def _difference(self, compiled: Any, window: torch.Tensor) -> float:
        """Return the largest difference of a logit from torch's, as a share of their range."""
        with torch.no_grad():
            wanted = _sample(self._network(window))
        release_unused()  # torch's memory, before OpenVINO takes its own
        logits = compiled.create_infer_request().infer([window.numpy()])[0]
        found = _sample(torch.from_numpy(logits).movedim(-1, 1))
        return float((found - wanted).abs().max() / (wanted.max() - wanted.min()).clamp(min=1e-6))


def _small_windows(shape: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return pairs of window shapes (1, C, D, H, W) that take a small part of the time of a given one.

    Each axis has twice and three times the number of voxels by which a network may halve it in all.
    """
    pairs = []
    for stride in STRIDES:
        one, other = (
            (*shape[:2], *(min(steps * math.gcd(size, stride), size) for size in shape[2:])) for steps in (2, 3)
        )
        if math.prod(other) * SMALL <= math.prod(shape):
            pairs.append((one, other))
    return pairs


def _window(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _sample(logits: torch.Tensor) -> torch.Tensor:
    """Return (B, labels, D, H, W) at every third voxel of each axis; of 117 labels, all of them take 1 GB."""
    return logits[:, :, ::3, ::3, ::3].clone()


def _compile_int8(ov: Any, core: Any, xml: Path, shape: tuple[int, ...], hints: dict[str, Any]) -> Any:
    """Return a network compiled as it was exported, which is when it was checked."""
    try:
        model = core.read_model(xml)
        made_for = tuple(model.input(0).shape)
        if made_for == shape:
            return core.compile_model(labels_last(ov, model), "CPU", hints)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise MemoryError(one_line(error)) from error
        raise BackendError(f"{xml}: OpenVINO cannot compile it: {one_line(error)}") from error
    raise BackendError(f"{xml}: expected a network for windows {shape}, got one for {made_for}. Export it again")


def _load(core: Any, path: Path, hints: dict[str, Any]) -> Any:
    """Return the compiled network of an earlier process; None if there is none, or it is damaged."""
    try:
        content = open_regular(path).read()
    except OSError:
        return None
    digest, blob = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(blob).digest() != digest:
        return None
    try:
        return core.import_model(blob, "CPU", hints)
    except RuntimeError:  # of another build of OpenVINO
        return None


def _keep(compiled: Any, path: Path) -> None:
    """Put a compiled network where the next process finds it; completely or not at all, also beside other processes."""
    blob = compiled.export_model().getvalue()
    with suppress(OutputError), atomic_file(path) as temporary:  # in a read-only home, the next process compiles again
        temporary.write_bytes(hashlib.sha256(blob).digest() + blob)

"""Networks as OpenVINO models."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tomoseg.core.errors import import_package

if TYPE_CHECKING:
    import openvino


def import_openvino() -> Any:
    """Import OpenVINO without the telemetry that it sends home from the moment it is imported.

    Raises:
        MissingPackageError: it is not installed.
    """
    with without_telemetry():
        return import_package("openvino", "openvino")


BLOCK = 8  # voxels along each axis, at most
_MADE: list[Any] = []
_MAKING = threading.Lock()


def openvino_core() -> Any:
    """Return the one `openvino.Core` of this process, which is never given back.

    A Core moves the stack on which signals are handled into memory of its own, which it frees as it goes, even where
    another Core came later and will put that stack back: then the next signal, be it Ctrl-C or the end of another
    process, kills the program.

    Raises:
        MissingPackageError: OpenVINO is not installed.
    """
    with _MAKING:
        if not _MADE:
            _MADE.append(import_openvino().Core())
            _MADE[0].get_property("CPU", "FULL_DEVICE_NAME")  # loads only the plugin that is used, and moves the stack
        return _MADE[0]


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Make the import of `openvino_telemetry` fail in here, as if it were not installed; who wants it uses a stub."""
    module = "openvino_telemetry"
    had = sys.modules.get(module)
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if had is None:
            del sys.modules[module]
        else:
            sys.modules[module] = had


def convert(network: torch.nn.Module, window: torch.Tensor) -> openvino.Model:
    """Return a network as an OpenVINO model for windows (1, C, D, H, W) of one shape; logits are (1, labels, D, H, W).

    Raises:
        Exception: OpenVINO and torch.jit.trace each have their own.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.no_grad():
        traced = torch.jit.trace(network, window, check_trace=False)  # type: ignore[no-untyped-call]
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced)  # must live during the conversion
    model = frontend.convert(frontend.load(decoder))
    model.reshape({model.input(0): list(window.shape)})
    if len(model.outputs) != 1 or len(model.output(0).shape) != window.ndim:
        raise ValueError(f"expected one map of logits, got {[str(output) for output in model.outputs]}")
    return model


def exact_norms(model: openvino.Model) -> None:
    """Let instance norms take means of blocks of voxels, and then of these.

    OpenVINO's MVN adds up a channel's voxels one after the other in float32. Where most of a window is air, logits were
    off by up to 3e-3 of their range, and are by 5e-6 now; the network takes a tenth more time.
    """
    from openvino import opset13 as ops
    from openvino.passes import ConstantFolding, Manager

    voxels = (2, 3, 4)
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)  # the axes of a norm are computed until then

    def mean(values: Any) -> Any:
        shape = list(values.get_shape())[2:]
        block = [max(size for size in range(1, BLOCK + 1) if length % size == 0) for length in shape]
        blocks = ops.avg_pool(values, block, [0] * 3, [0] * 3, block, exclude_pad=True).output(0)
        return ops.reduce_mean(blocks, ops.constant(np.array(voxels)), keep_dims=True).output(0)

    for norm in model.get_ordered_ops():
        if norm.get_type_name() != "MVN" or norm.get_output_partial_shape(0).rank.get_length() != 5:
            continue
        axes = norm.input_value(1).get_node()
        if axes.get_type_name() != "Constant" or tuple(sorted(axes.get_data().tolist())) != voxels:
            continue
        centred = ops.subtract(norm.input_value(0), mean(norm.input_value(0))).output(0)
        variance = mean(ops.multiply(centred, centred).output(0))
        smallest = ops.constant(np.float32(norm.get_attributes()["eps"]))
        normed = ops.divide(centred, ops.sqrt(ops.add(variance, smallest)))
        norm.output(0).replace(normed.output(0))
    model.validate_nodes_and_infer_types()


def labels_last(ov: Any, model: openvino.Model) -> openvino.Model:
    """Return a model whose logits are (1, D, H, W, labels).

    OpenVINO computes with the labels last; to bring them to the front takes a sixth of the time.
    """
    steps = ov.preprocess.PrePostProcessor(model)
    steps.output().model().set_layout(ov.Layout("NCDHW"))
    steps.output().tensor().set_layout(ov.Layout("NDHWC"))
    return steps.build()

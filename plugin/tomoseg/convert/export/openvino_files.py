"""OpenVINO's files, in full precision and in int8."""

from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from tomoseg.convert.export.export_source import ExportSource
from tomoseg.convert.export.parity import Runner
from tomoseg.convert.export.samples import Samples
from tomoseg.inference.backends.int8_network import save_model
from tomoseg.inference.backends.openvino_model import convert, openvino_core, without_telemetry

LAYERS = ("Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData")


def write_openvino(source: ExportSource, file: Path, samples: Samples) -> Iterator[str]:
    """Write a network for one window at a time, in full precision."""
    _save(_convert(source), file, source, "fp32")
    yield ""


def write_int8(source: ExportSource, file: Path, samples: Samples) -> Iterator[str]:
    """Write a network whose layers compute with 8 bits; at each further turn, fewer of them."""
    nncf = _import_nncf()
    layers = [
        layer.get_friendly_name() for layer in _convert(source).get_ordered_ops() if layer.get_type_name() in LAYERS
    ]
    windows = nncf.Dataset(samples.calibration, lambda window: window.numpy())
    turns = {
        "": [],
        "the output layer is left in floating point": layers[-1:],
        "the input and the output layer are left in floating point": [layers[0], layers[-1]],
    }
    for note, left in turns.items():
        # LeakyReLU and PReLU have values below 0, for which ranges that are symmetric everywhere waste a bit
        preset, scope = nncf.QuantizationPreset.MIXED, nncf.IgnoredScope(names=left)
        count = len(samples.calibration)
        with redirect_stdout(StringIO()):  # it draws bars there
            model = nncf.quantize(_convert(source), windows, preset=preset, subset_size=count, ignored_scope=scope)
        _save(model, file, source, "int8")
        yield note


def read_openvino(file: Path) -> Runner:
    """Load a network into OpenVINO; its floating-point parts run in fp32."""
    core = openvino_core()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request = core.compile_model(core.read_model(file), "CPU", hints).create_infer_request()
    return lambda window: torch.from_numpy(request.infer([window.numpy()])[0])


def _convert(source: ExportSource) -> Any:
    window = torch.randn((1, *source.window), generator=torch.Generator().manual_seed(0))
    return convert(source.network, window)


def _save(model: Any, file: Path, source: ExportSource, precision: str) -> None:
    save_model(model, file, source.checkpoint, source.config.network_definition, precision)


def _import_nncf() -> Any:
    """Import nncf without the telemetry that it sends home with each network."""
    openvino_core()  # nncf makes others, which must not come first
    with without_telemetry(), redirect_stdout(StringIO()):
        import nncf
    return nncf

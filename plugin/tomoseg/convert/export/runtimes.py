"""How a network is written for other runtimes, and run by them.

MONAI's own exports make TorchScript, ONNX and TensorRT engines, `torch.export` makes programs, OpenVINO's converter its
files, with nncf in int8.
"""

import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ckpt_export, onnx_export, trt_export
from torch.export import Dim

from tomoseg.convert.export.export_source import ExportSource
from tomoseg.convert.export.parity import Runner
from tomoseg.convert.export.samples import Samples
from tomoseg.core.files import require_regular
from tomoseg.inference.backends.int8_network import save_model
from tomoseg.inference.backends.openvino_model import convert, openvino_core, without_telemetry
from tomoseg.inference.config import literal

CPU_EXPRESSION = "$torch.device('cpu')"
LAYERS = ("Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData")


def monai_arguments(source: ExportSource, target: Path | BytesIO) -> dict[str, object]:
    """Return what MONAI's exports have in common."""
    return {
        "net_id": "network_def",
        "filepath": target if isinstance(target, BytesIO) else str(target),
        "ckpt_file": str(source.checkpoint),
        "meta_file": str(source.bundle.metadata_file),
        "config_file": str(source.bundle.inference_config),
        "key_in_ckpt": source.config.checkpoint_key,
        "bundle_root": literal(str(source.bundle.root)),
    }


def write_torchscript(source: ExportSource, file: Path, samples: Samples) -> Iterator[str]:
    """Write TorchScript with the bundle's config and metadata in it, by script; by trace where that is not possible."""
    content, note = BytesIO(), ""  # written by Python, for torch aborts the process where a disk is full
    arguments = {**monai_arguments(source, content), "device": CPU_EXPRESSION}
    try:
        ckpt_export(**arguments)
    except Exception:  # torch.jit.script on the bundle's network; the trace has errors of its own
        ckpt_export(**arguments, use_trace=True, input_shape=[1, *source.window])
        note = "traced, because TorchScript does not support all of its code"
    file.write_bytes(content.getvalue())
    yield note


def read_torchscript(file: Path) -> Runner:
    """Load TorchScript."""
    network: Runner = torch.jit.load(require_regular(file))  # type: ignore[no-untyped-call]
    return network


def write_program(source: ExportSource, file: Path, samples: Samples) -> Iterator[str]:
    """Write a program of `torch.export` for any number of windows at once, with the bundle's metadata in it."""
    batch = torch.rand((2, *source.window))  # of 1, the program would be for 1 alone
    program = torch.export.export(source.network, (batch,), dynamic_shapes=({0: Dim.AUTO},), strict=False)
    content = BytesIO()
    torch.export.save(program, content, extra_files={"metadata.json": json.dumps(source.bundle.metadata)})
    file.write_bytes(content.getvalue())
    yield ""


def read_program(file: Path) -> Runner:
    """Load a program of `torch.export`."""
    network: Runner = torch.export.load(require_regular(file)).module()
    return network


def write_tensorrt(source: ExportSource, file: Path, samples: Samples) -> Iterator[str]:
    """Write an engine for the GPU of this computer, for one window at a time, in TorchScript."""
    content = BytesIO()
    trt_export(**monai_arguments(source, content), precision="fp32", use_trace=True, input_shape=[1, *source.window])
    file.write_bytes(content.getvalue())
    yield ""


def read_tensorrt(file: Path) -> Runner:
    """Load an engine onto the GPU."""
    import torch_tensorrt  # noqa: F401 - torch.jit.load finds its engines' class there

    network = torch.jit.load(require_regular(file)).cuda()  # type: ignore[no-untyped-call]
    return lambda window: network(window.cuda()).float().cpu()


def write_onnx(source: ExportSource, file: Path, samples: Samples) -> Iterator[str]:
    """Write one file, weights included, for any number of windows at once: `image` in, `pred` out."""
    converter = {
        "dynamo": True, "dynamic_shapes": ({0: Dim.AUTO},), "external_data": False,
        "input_names": ["image"], "output_names": ["pred"], "verbose": False,
    }  # fmt: skip
    arguments = {**monai_arguments(source, file), "device": CPU_EXPRESSION, "converter_kwargs": converter}
    # of 1 window, the network would be for 1 alone
    onnx_export(**arguments, use_trace=True, input_shape=[2, *source.window])
    yield ""


def read_onnx(file: Path) -> Runner:
    """Load a network into ONNX Runtime on the CPU, with as many threads as torch has."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # its build for Windows has some
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda window: torch.from_numpy(session.run(None, {name: window.numpy()})[0])


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

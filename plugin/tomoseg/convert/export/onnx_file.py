"""ONNX, by MONAI's own export; run by ONNX Runtime."""

from collections.abc import Iterator
from pathlib import Path

import torch
from monai.bundle import onnx_export
from torch.export import Dim

from tomoseg.convert.export.export_source import ExportSource
from tomoseg.convert.export.parity import Runner
from tomoseg.convert.export.samples import Samples
from tomoseg.convert.export.torch_files import CPU_EXPRESSION, monai_arguments


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

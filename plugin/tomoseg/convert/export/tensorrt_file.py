"""TensorRT engines in TorchScript, by MONAI's own export."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import torch
from monai.bundle import trt_export

from tomoseg.convert.export.export_source import ExportSource
from tomoseg.convert.export.parity import Runner
from tomoseg.convert.export.samples import Samples
from tomoseg.convert.export.torch_files import monai_arguments


def write_tensorrt(source: ExportSource, file: Path, samples: Samples) -> Iterator[str]:
    """Write an engine for the GPU of this computer, for one window at a time, in TorchScript."""
    content = BytesIO()
    trt_export(**monai_arguments(source, content), precision="fp32", use_trace=True, input_shape=[1, *source.window])
    file.write_bytes(content.getvalue())
    yield ""


def read_tensorrt(file: Path) -> Runner:
    """Load an engine onto the GPU."""
    import torch_tensorrt  # noqa: F401 - torch.jit.load finds its engines' class there

    network = torch.jit.load(file).cuda()  # type: ignore[no-untyped-call]
    return lambda window: network(window.cuda()).float().cpu()

"""Files that PyTorch runs: TorchScript and TensorRT engines by MONAI's own export, programs of `torch.export`."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import torch
from monai.bundle import ckpt_export, trt_export
from torch.export import Dim

from tomoseg.convert.export.export_source import ExportSource
from tomoseg.convert.export.parity import Runner
from tomoseg.convert.export.samples import Samples
from tomoseg.core.files import require_regular
from tomoseg.inference.config import literal

CPU_EXPRESSION = "$torch.device('cpu')"


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

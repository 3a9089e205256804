"""Files that PyTorch runs: TorchScript by MONAI's own export, and programs of `torch.export`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import torch
from monai.bundle import ckpt_export
from torch.export import Dim

from tomoseg.convert.export.origin import Origin
from tomoseg.convert.export.parity import Runner
from tomoseg.convert.export.samples import Samples
from tomoseg.inference.config import literal

CPU_EXPRESSION = "$torch.device('cpu')"


def monai_arguments(origin: Origin, target: Path | BytesIO) -> dict[str, object]:
    """Return what MONAI's exports have in common."""
    return {
        "net_id": "network_def",
        "filepath": target if isinstance(target, BytesIO) else str(target),
        "ckpt_file": str(origin.checkpoint),
        "meta_file": str(origin.bundle.root / "configs" / "metadata.json"),
        "config_file": str(origin.bundle.inference_config),
        "key_in_ckpt": origin.config.checkpoint_key,
        "bundle_root": literal(str(origin.bundle.root)),
    }


def write_torchscript(origin: Origin, file: Path, samples: Samples) -> Iterator[str]:
    """Write TorchScript with the bundle's config and metadata in it, by script; by trace where that is not possible."""
    content, remark = BytesIO(), ""  # written by Python, for torch aborts the process where a disk is full
    arguments = {**monai_arguments(origin, content), "device": CPU_EXPRESSION}
    try:
        ckpt_export(**arguments)
    except Exception:  # torch.jit.script on the bundle's network; the trace has errors of its own
        ckpt_export(**arguments, use_trace=True, input_shape=[1, *origin.window])
        remark = "traced, for TorchScript does not know all of its code"
    file.write_bytes(content.getvalue())
    yield remark


def read_torchscript(file: Path) -> Runner:
    """Load TorchScript."""
    network: Runner = torch.jit.load(file)  # type: ignore[no-untyped-call]
    return network


def write_program(origin: Origin, file: Path, samples: Samples) -> Iterator[str]:
    """Write a program of `torch.export` for any number of windows at once, with the bundle's metadata in it."""
    batch = torch.rand((2, *origin.window))  # of 1, the program would be for 1 alone
    program = torch.export.export(origin.network, (batch,), dynamic_shapes=({0: Dim.AUTO},), strict=False)
    content = BytesIO()
    torch.export.save(program, content, extra_files={"metadata.json": json.dumps(origin.bundle.metadata)})
    file.write_bytes(content.getvalue())
    yield ""


def read_program(file: Path) -> Runner:
    """Load a program of `torch.export`."""
    network: Runner = torch.export.load(file).module()
    return network

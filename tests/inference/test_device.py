"""Names of devices are checked without torch, and chosen in one place."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tomoseg import TomosegError
from tomoseg.bundle.options import RunOptions
from tomoseg.inference.device import choose_device
from tomoseg.training.options import TrainingOptions


@pytest.mark.parametrize("name", ["cuda:x", "cuda:", "cuda:-1", "CPU", "meta", "", "cuda:\u0661"])
def test_a_name_that_is_none_is_refused_wherever_it_is_given(name: str) -> None:
    for take in (choose_device, lambda name: RunOptions(device=name), lambda name: TrainingOptions(device=name)):
        with pytest.raises(TomosegError, match=r"^device: expected auto, cpu, cuda, cuda:N or mps, got "):
            take(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:99"])
def test_a_gpu_that_is_not_there_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert RunOptions(device=name).device == name  # another machine may have it
    with pytest.raises(TomosegError, match=f"^device: {name} asked for, but there are 0 CUDA devices. Use --device"):
        choose_device(name)


def test_a_gpu_is_cudas_and_apples_has_to_be_there() -> None:
    assert RunOptions(device="gpu").device == TrainingOptions(device="gpu").device == "cuda"
    if not torch.backends.mps.is_available():
        with pytest.raises(TomosegError, match=r"^device: mps asked for, but torch finds no GPU of Apple here\. Use"):
            choose_device("mps")


def test_the_spelling_is_checked_without_torch() -> None:
    code = "import sys, tomoseg.bundle.options as o; o.RunOptions(device='cuda:1'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

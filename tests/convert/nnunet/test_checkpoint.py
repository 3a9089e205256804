"""Checkpoints of nnU-Net are opened, and nothing in them runs."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tomoseg.convert.nnunet.checkpoint import read_checkpoint
from tomoseg.core.errors import BundleError


class RunsACommand:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def saved(path: Path, **entries: Any) -> Path:
    content = {
        "network_weights": {"module.a": torch.ones(2)},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "_best_ema": np.float64(0.9),
        "logging": {"dice_per_class_or_region": [[np.float32(0.5)]]},
    }
    torch.save(content | entries, path)
    return path


def test_checkpoint_with_numpy_scalars(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved(tmp_path / "checkpoint_final.pth"))
    assert list(checkpoint.weights) == ["a"]
    assert (checkpoint.trainer, checkpoint.mirror_axes) == ("nnUNetTrainer", (0, 1, 2))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"network_weights": None}, "expected a checkpoint of nnU-Net 2"),
        ({"inference_allowed_mirroring_axes": (0, "$1")}, "expected some of"),
        ({"inference_allowed_mirroring_axes": ([0], 1)}, "expected some of"),
        ({"logging": RunsACommand()}, "not opened, for it names posix.mkdir"),
    ],
)
def test_bad_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: dict[str, Any], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "checkpoint_final.pth", **entries)
    with pytest.raises(BundleError, match=message) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_truncated_checkpoint(tmp_path: Path) -> None:
    path = saved(tmp_path / "checkpoint_final.pth")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BundleError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)

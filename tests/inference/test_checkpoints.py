"""Which weights of a checkpoint count, how they may be written, and which are refused."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.bundles import Json
from support.one_layer import NETWORK, write
from tomoseg import TomosegError, find_bundle
from tomoseg.inference.checkpoints import read_weights
from tomoseg.inference.config import InferenceConfig

WEIGHTS = torch.nn.Conv3d(1, 3, 3).state_dict()
OTHERS = {name: value + 1 for name, value in WEIGHTS.items()}
EXTRA = {"epoch": 3, "dice": np.float64(0.5), "curve": np.zeros(3), "seen": np.int64(4)}


def loader(*names: str, file: str = "model.pt") -> Json:
    load_dict = {name: "@optimizer" if name == "optimizer" else "@network_def" for name in names}
    path = f"$@bundle_root + '/models/{file}'"
    return {"handlers": [{"_target_": "CheckpointLoader", "load_path": path, "load_dict": load_dict}]}


def wrapped(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in WEIGHTS.items()}


# config, what the file holds, and how the error goes on where there is one
CASES: dict[str, tuple[Json, Any, str]] = {
    "state dict": (loader("model"), WEIGHTS, ""),
    "entry": (loader("model"), {"model": WEIGHTS, "optimizer": {}, **EXTRA}, ""),
    "named entry": (loader("ema"), {"model": OTHERS, "ema": WEIGHTS}, ""),
    "network beside others": (loader("optimizer", "ema"), {"optimizer": OTHERS, "ema": WEIGHTS}, ""),
    "only entry": (loader("model"), {"state_dict": WEIGHTS, **EXTRA}, ""),
    "ambiguous": (loader("model"), {"ema": WEIGHTS, "state_dict": OTHERS}, "got several: ema, state_dict"),
    "no loader": ({"handlers": []}, {"model": WEIGHTS}, ""),
    "no loader, ambiguous": ({"handlers": []}, {"model": WEIGHTS, "ema": OTHERS}, "got several: model, ema"),
    "two networks": (loader("model", "teacher"), WEIGHTS, "expected one entry for the network, got model, teacher"),
    "data parallel": (loader("model"), wrapped("module."), ""),
    "compiled": (loader("model"), {"model": wrapped("_orig_mod.")}, ""),
    "compiled and parallel": (loader("model"), wrapped("_orig_mod.module."), ""),
    "list": (loader("model"), [WEIGHTS], "expected a state dict, got list"),
    "numbers": (loader("model"), EXTRA, "got something else"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_config_says_which_weights_count(tmp_path: Path, name: str) -> None:
    config, content, error = CASES[name]
    root = write(tmp_path / "bundle", {**config, "optimizer": None, "network_def": {**NETWORK, "padding": 0}})
    torch.save(content, root / "models" / "model.pt")

    def load() -> torch.nn.Module:
        found = InferenceConfig(find_bundle(root))
        return found.load_network(found.checkpoints[0])

    if error:
        with pytest.raises(TomosegError, match=error):
            load()
    else:
        assert all(torch.equal(value, WEIGHTS[key]) for key, value in load().state_dict().items())


def test_safetensors_load_where_the_config_names_them(tmp_path: Path) -> None:
    tensors = pytest.importorskip("safetensors.torch")
    root = write(tmp_path / "bundle", loader("model", file="model.safetensors"))
    tensors.save_file(wrapped("module."), root / "models" / "model.safetensors")
    found = InferenceConfig(find_bundle(root))
    loaded = found.load_network(found.checkpoints[0]).state_dict()
    assert all(torch.equal(value, WEIGHTS[key]) for key, value in loaded.items())


class Runs:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch marker",)


def _cut(path: Path) -> None:
    torch.save(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:100])


def _save_script(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), path)


REFUSED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "command": (
        "m.pt",
        lambda path: torch.save({"model": WEIGHTS, "x": Runs()}, path),
        "it names posix.system, and only",
    ),
    "network": ("m.pt", lambda path: torch.save(torch.nn.ReLU(), path), "it names torch.nn.modules.activation.ReLU"),
    "pickle": ("m.pt", lambda path: path.write_bytes(pickle.dumps(Runs())), "m.pt: "),
    "cut off": ("m.pt", _cut, "cannot be read as a checkpoint"),
    "TorchScript": (
        "m.ts",
        _save_script,
        "cannot be read as a checkpoint",
    ),
    "no safetensors": ("m.safetensors", lambda path: path.write_bytes(pickle.dumps(Runs())), "as safetensors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_weights_is_refused_and_does_not_run(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, save, error = REFUSED[name]
    save(tmp_path / file)
    with pytest.raises(TomosegError, match=error):
        read_weights(tmp_path / file, "model")
    assert not Path("marker").exists()


def test_missing_weights_name_the_command_that_brings_them(tmp_path: Path) -> None:
    root = write(tmp_path / "a bundle", {}, {"large_files.yml": "large_files: []"})
    (root / "models" / "model.pt").unlink()
    found = InferenceConfig(find_bundle(root))
    with pytest.raises(TomosegError, match=r"monai\.bundle download_large_files --bundle_path '.*a bundle'"):
        found.load_network(found.checkpoints[0])

"""A bundle whose network is one convolution, for what a config may say."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from support.bundles import Json

NETWORK = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 3, "kernel_size": 3, "padding": 1}
INVERT = {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"}
ARGMAX = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
CONFIG: Json = {
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": [1.7, 1.7, 1.7]},
            {"_target_": "NormalizeIntensityd", "keys": "image"},
        ],
    },
    "network_def": NETWORK,
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16]},
    "postprocessing": {"_target_": "Compose", "transforms": [{**INVERT, "nearest_interp": False}, ARGMAX]},
    "handlers": [
        {
            "_target_": "CheckpointLoader",
            "load_path": "$@bundle_root + '/models/model.pt'",
            "load_dict": {"model": "@network_def"},
        }
    ],
}


def write(root: Path, config: Json, files: dict[str, str] | None = None, metadata: Json | None = None) -> Path:
    """Write a bundle, with the weights of a convolution."""
    files = files or {}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name, content in {"inference": {**CONFIG, **config}, "metadata": metadata or {}}.items():
        path = root / "configs" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    (root / "models").mkdir()
    save_layer(root / "models" / "model.pt", "layer." if "scripts/__init__.py" in files else "")
    return root


def save_layer(path: Path, prefix: str = "") -> None:
    """Write weights of `NETWORK`, the same each time, under names that begin with a prefix."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        weights = torch.nn.Conv3d(1, 3, 3, padding=1).state_dict()
    torch.save({prefix + key: value for key, value in weights.items()}, path)

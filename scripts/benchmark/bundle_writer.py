"""A plain MONAI bundle around the benchmark's network, in the style of the model zoo's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

from network import CLASSES, HU_RANGE, SPACING, WINDOW, network_def, write_weights
from tomoseg.bundle.trust import record


def write_bundle(folder: Path, classes: int = CLASSES, amp: bool = False) -> Path:
    """Write `configs/inference.json`, `configs/metadata.json` and `models/model.pt`; return the folder, now trusted.

    Args:
        folder: the bundle's.
        classes: number of scores.
        amp: whether its evaluator runs with automatic mixed precision, as MONAI does on GPUs.
    """
    configs = folder / "configs"
    configs.mkdir(parents=True, exist_ok=True)
    for name, config in (("inference", inference_config(classes, amp)), ("metadata", metadata(classes))):
        (configs / f"{name}.json").write_text(json.dumps(config, indent=4) + "\n")
    write_weights(folder / "models", classes)
    record(folder)
    return folder


def inference_config(classes: int, amp: bool) -> dict[str, Any]:
    """What `python -m monai.bundle run` needs; `bundle_root`, `dataset_dir` and `output_dir` are for it to set."""
    files = "sorted(f for f in os.listdir(@dataset_dir) if f.endswith(('.nii', '.nii.gz')) and not f.startswith('.'))"
    return {
        "imports": ["$import os", "$import monai", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": f"$[{{'image': os.path.join(@dataset_dir, f)}} for f in {files}]",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": network_def(classes),
        "network": "$@network_def.to(@device)",
        "checkpoint": "$@bundle_root + '/models/model.pt'",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing()},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(WINDOW),
            "sw_batch_size": 1,
            "overlap": 0.5,
            "mode": "gaussian",
        },
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing()},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "@checkpoint",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
                "strict": True,
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": amp,
        },
        "initialize": ["$monai.utils.set_determinism(seed=0)"],
        "run": ["$@evaluator.run()"],
    }


def metadata(classes: int) -> dict[str, Any]:
    """What the bundle says of itself."""
    names = ["background", *(f"organ {label}" for label in range(1, classes))]
    image = {
        "type": "image",
        "spatial_shape": list(WINDOW),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
    }
    scan = {"format": "hounsfield", "modality": "CT", "num_channels": 1, "channel_def": {"0": "image"}}
    scores = {
        "format": "segmentation",
        "num_channels": classes,
        "channel_def": {str(label): name for label, name in enumerate(names)},
    }
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": "0.1.0",
        "changelog": {"0.1.0": "weights set by hand"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {},
        "supported_apps": {},
        "name": "Benchmark CT segmentation",
        "task": "Segmentation of the organs of a synthetic CT",
        "description": f"A 3D U-Net with {classes} classes that knows the organs of the phantom by their HU",
        "authors": "tomoseg developers",
        "copyright": "Copyright (c) tomoseg developers",
        "intended_use": "Measuring time and memory only",
        "network_data_format": {"inputs": {"image": {**image, **scan}}, "outputs": {"pred": {**image, **scores}}},
    }


def _preprocessing() -> list[dict[str, Any]]:
    low, high = HU_RANGE
    return [
        {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
        {"_target_": "Spacingd", "keys": "image", "pixdim": list(SPACING), "mode": "bilinear"},
        {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": low,
            "a_max": high,
            "b_min": 0.0,
            "b_max": 1.0,
            "clip": True,
        },
    ]


def _postprocessing() -> list[dict[str, Any]]:
    return [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
            "to_tensor": True,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_postfix": "seg",
            "output_ext": ".nii.gz",
            "output_dtype": "uint8",
            "data_root_dir": "@dataset_dir",
            "separate_folder": False,
            "resample": False,
        },
    ]

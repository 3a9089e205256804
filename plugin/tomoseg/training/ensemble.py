"""The weights of all folds in one bundle: averaged, or as networks whose scores are averaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tomoseg.bundle.metadata import Bundle
from tomoseg.core.errors import BundleError, one_line
from tomoseg.core.files import atomic_file
from tomoseg.inference.config import read_weights
from tomoseg.training.state import save_weights

Json = dict[str, Any]
KEEP_LARGEST = "KeepLargestConnectedComponentd"


def average_weights(checkpoints: Sequence[Path], target: Path) -> None:
    """Write the mean of the weights of several checkpoints.

    Raises:
        BundleError: one cannot be read.
        OutputError: the mean cannot be written.
    """
    several = [read_weights(path, "model") for path in checkpoints]
    mean = {
        name: torch.stack([weights[name].double() for weights in several]).mean(dim=0).to(tensor.dtype)
        for name, tensor in several[0].items()
    }
    save_weights(target, mean)


def ensemble_config(config: Json, files: Sequence[str]) -> Json:
    """Return an inference config whose scores are the mean over several networks, for stock MONAI and for the engine.

    Args:
        config: of one network, as `tomoseg plan` writes it.
        files: the checkpoints' names in the bundle's folder `models`.
    """
    keys = [f"pred_{index}" for index in range(len(files))]
    steps = [step for step in config["postprocessing"]["transforms"] if step["_target_"] != "MeanEnsembled"]
    made = {
        **config,
        "imports": list(dict.fromkeys(["$import copy", *config["imports"]])),
        "networks": f"$[copy.deepcopy(@network_def).to(@device) for _ in range({len(files)})]",
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "MeanEnsembled", "keys": keys, "output_key": "pred"}, *steps],
        },
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": f"$@bundle_root + '/models/{name}'",
                "load_dict": {"model": f"$@networks[{index}]"},
                "map_location": "@device",
                "strict": True,
            }
            for index, name in enumerate(files)
        ],
        "evaluator": {
            **{key: value for key, value in config["evaluator"].items() if key != "network"},
            "_target_": "EnsembleEvaluator",
            "networks": "@networks",
            "pred_keys": keys,
        },
    }
    made.pop("checkpoint", None)
    return made


def single_config(config: Json) -> Json:
    """Return the config of one network, whether several were put into it before or not."""
    if "networks" not in config:
        return config
    steps = [step for step in config["postprocessing"]["transforms"] if step["_target_"] != "MeanEnsembled"]
    evaluator = {key: value for key, value in config["evaluator"].items() if key not in ("networks", "pred_keys")}
    return {
        **{key: value for key, value in config.items() if key != "networks"},
        "checkpoint": "$@bundle_root + '/models/model.pt'",
        "postprocessing": {**config["postprocessing"], "transforms": steps},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "@checkpoint",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
                "strict": True,
            }
        ],
        "evaluator": {**evaluator, "_target_": "SupervisedEvaluator", "network": "@network"},
    }


def keep_components(config: Json, labels: Sequence[int]) -> Json:
    """Return a config that keeps the largest component of some labels only.

    Args:
        config: of inference or of evaluation.
        labels: values of these labels; for none, nothing is changed.
    """
    steps = [step for step in config["postprocessing"]["transforms"] if step["_target_"] != KEEP_LARGEST]
    if labels:
        place = next(index for index, step in enumerate(steps) if step["_target_"] == "AsDiscreted") + 1
        steps.insert(place, {"_target_": KEEP_LARGEST, "keys": "pred", "applied_labels": list(labels)})
    return {**config, "postprocessing": {**config["postprocessing"], "transforms": steps}}


def write_single(bundle: Bundle, config: Json, folder: Path) -> Bundle:
    """Write a bundle's configs with another inference config; return that bundle, which has no weights of its own.

    Args:
        bundle: the bundle.
        config: of its inference.
        folder: a new one.
    """
    shutil.copytree(bundle.root / "configs", folder / "configs")
    single = Bundle(bundle.name, folder)
    write_config(single.inference_config, config)
    return single


def read_inference(bundle: Bundle) -> Json:
    """Return a bundle's inference.json.

    Raises:
        BundleError: it is missing, no JSON, or not such as `tomoseg plan` writes.
    """
    path = bundle.inference_config
    try:
        config: Json = json.loads(path.read_text(encoding="utf-8"))
        targets = [step["_target_"] for step in config["postprocessing"]["transforms"]]
        if "AsDiscreted" not in targets or "network_def" not in config or "evaluator" not in config:
            raise KeyError("AsDiscreted, network_def, evaluator")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{path}: expected a JSON config such as `tomoseg plan` writes: {one_line(error)}; so the folds cannot be "
            "put into it"
        ) from error
    return config


def write_config(path: Path, config: Json) -> None:
    """Write a config, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")

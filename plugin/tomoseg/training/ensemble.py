"""The weights of all folds in one bundle."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from tomoseg.bundle.configs import Json, write_config
from tomoseg.bundle.metadata import Bundle
from tomoseg.core.errors import BundleError, errors_as
from tomoseg.core.files import read_text
from tomoseg.inference.checkpoints import read_weights, save_weights


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


def write_single(bundle: Bundle, config: Json, folder: Path) -> Bundle:
    """Write a bundle's configs with another inference config; return that bundle, which has no weights of its own.

    Args:
        bundle: the bundle.
        config: of its inference.
        folder: a new one.
    """
    shutil.copytree(bundle.root / "configs", folder / "configs")
    single = Bundle(bundle.name, folder, trusted=True)  # as the bundle is, which was trained just now
    write_config(single.inference_config, config)
    return single


def read_inference(bundle: Bundle) -> Json:
    """Return a bundle's inference.json.

    Raises:
        BundleError: it is missing, no JSON, or not such as `tomoseg plan` writes.
    """
    path = bundle.inference_config
    expected = f"{path}: expected a JSON config such as `tomoseg plan` writes"
    remedy = "; so the folds cannot be put into it"
    with errors_as(BundleError, expected, OSError, ValueError, KeyError, TypeError, remedy=remedy):
        config: Json = json.loads(read_text(path))
        targets = [step["_target_"] for step in config["postprocessing"]["transforms"]]
        if "AsDiscreted" not in targets or "network_def" not in config or "evaluator" not in config:
            raise KeyError("AsDiscreted, network_def, evaluator")
    return config

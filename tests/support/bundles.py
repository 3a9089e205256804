"""The bundles of the checkout, as the tests read and run them."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support.tiers import rest_exhaustive

CHECKOUT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path.parent.parent for path in CHECKOUT.glob("monai_bundle/*/configs/metadata.json"))
# the labelled data of each bundle, as the fixture that gives them
DATA = {"hippocampus_mr_segmentation": "hippocampus_data", "head_neck_ct_segmentation": "head_neck_data"}
SHARED = CHECKOUT.parent / "shared" / "data"  # not on a user's machine
BUNDLE_NAME = "hippocampus_mr_segmentation"
CONFIGS = ("train", "evaluate", "inference", "multi_gpu_train", "multi_gpu_evaluate")
CASES = 3

# One thread each: the same sums in the same order, and two processes share two cores. No GPU.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
# what `Place.call` prints into: loggers that are made meanwhile keep it
PRINTED = io.StringIO()

# for what all bundles do alike: continuous integration takes the fastest one
one_bundle = pytest.mark.parametrize(
    "bundle",
    rest_exhaustive(sorted(BUNDLES, key=lambda folder: folder.name != BUNDLE_NAME)),
    indirect=True,
    ids=lambda folder: folder.name,
)

Json = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """A bundle and the folder from which a person runs it."""

    bundle: Path
    folder: Path

    def path(self, name: str) -> str:
        return str((self.bundle / name).relative_to(self.folder))

    def configs(self, *names: str) -> str:
        paths = [self.path(f"configs/{name}.json") for name in names]
        return paths[0] if len(paths) == 1 else str(paths).replace(" ", "")

    def run(self, *arguments: str, scratch: Path, processes: int = 1) -> str:
        """Run `python -m monai.bundle` with these arguments; return its output."""
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nnodes=1", f"--nproc_per_node={processes}"]
        done = subprocess.run(
            [sys.executable, *(launcher if processes > 1 else []), "-m", "monai.bundle", *arguments],
            cwd=self.folder,
            env=ENVIRONMENT | {"TMPDIR": str(scratch)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    def call(self, command: str, *arguments: str) -> str:
        """Run a command of `monai.bundle` in this process, as its command line reads the arguments: seconds faster."""
        import fire
        import monai.bundle
        from monai.utils import set_determinism

        PRINTED.seek(0)
        PRINTED.truncate()
        root = logging.getLogger()
        level, handlers = root.level, root.handlers[:]
        streams = [(handler, handler.stream) for handler in _printing_handlers()]
        for handler, _ in streams:
            handler.stream = PRINTED
        try:
            with contextlib.chdir(self.folder), contextlib.redirect_stdout(PRINTED):
                fire.Fire(getattr(monai.bundle, command), list(arguments))
        finally:  # a bundle's config may set up logging and fix seeds
            for handler, stream in streams:
                handler.stream = stream
            root.setLevel(level)
            root.handlers = handlers
            set_determinism(None)
        return PRINTED.getvalue()


def _printing_handlers() -> list[logging.StreamHandler[Any]]:
    """Return the handlers by which loggers print; each keeps the stream that it was made with."""
    loggers = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    return [handler for logger in loggers for handler in logger.handlers if type(handler) is logging.StreamHandler]


def read_config(bundle: Path, name: str) -> Json:
    config: Json = json.loads((bundle / "configs" / f"{name}.json").read_text())
    return config


def parse_config(bundle: Path, name: str, **options: Any) -> Any:
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(bundle / "configs" / f"{name}.json")
    parser.update(options)
    return parser


def load_network(bundle: Path, weights: Path) -> torch.nn.Module:
    network: torch.nn.Module = parse_config(bundle, "inference", dataset_dir=".").get_parsed_content("network_def")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), strict=True)
    return network.eval()


def random_window(bundle: Path) -> torch.Tensor:
    image = read_config(bundle, "metadata")["network_data_format"]["inputs"]["image"]
    return torch.randn(1, image["num_channels"], *image["spatial_shape"], generator=torch.Generator().manual_seed(0))


def prediction_format(bundle: Path) -> Json:
    pred: Json = read_config(bundle, "metadata")["network_data_format"]["outputs"]["pred"]
    return pred


def label_values(bundle: Path) -> list[int]:
    return [int(label) for label in prediction_format(bundle)["channel_def"] if label != "0"]


def class_metrics(bundle: Path) -> list[str]:
    return [f"val_dice_{prediction_format(bundle)['channel_def'][str(label)]}" for label in label_values(bundle)]


def voxels(image: Any) -> NDArray[Any]:
    return np.asarray(image.dataobj)


def dice(one: NDArray[Any], other: NDArray[Any], label: int) -> float:
    return float(2 * np.sum((one == label) & (other == label)) / (np.sum(one == label) + np.sum(other == label)))

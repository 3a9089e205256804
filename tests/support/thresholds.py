"""A planned CT bundle whose network is one convolution with weights set by hand: labels by thresholds of the HU."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch

from support.fingerprints import BUDGET, HIPPOCAMPUS
from tomoseg.planning.configs import make_configs
from tomoseg.planning.fingerprint import LabelPrint
from tomoseg.planning.layout import Layout
from tomoseg.planning.metadata import make_metadata
from tomoseg.planning.rules import decide

LOW, HIGH, MEAN, SD = -500.0, 1611.0, 237.0, 424.0  # HU; the planned window
SPACING = (3.9, 3.9, 2.5)


def threshold_bundle(
    folder: Path,
    thresholds: dict[str, float],
    volumes_ml: dict[str, tuple[float, float]] | None = None,
    blur: bool = False,
    **metadata: Any,
) -> Path:
    """Write a bundle that gives each voxel the last of the labels whose threshold it exceeds.

    Args:
        folder: the bundle's.
        thresholds: HU by the label's name, ascending, within the window.
        volumes_ml: 5th and 95th percentile of each label's volumes "in the dataset"; none for a label without.
        blur: the network averages 3×3×3 voxels, so that its scores are smooth.
        metadata: entries to replace.
    """
    ranges = volumes_ml or {}
    labels = tuple(
        LabelPrint(value, name, 9, 9, 1.0, *ranges.get(name, (None, None)))
        for value, name in enumerate(thresholds, start=1)
    )
    fingerprint = replace(
        HIPPOCAMPUS,
        median_shape=(106, 67, 90),
        largest_shape=(128, 80, 128),
        median_spacing_mm=SPACING,
        coarse_spacing_mm=SPACING,
        median_extent_mm=(413.0, 261.0, 225.0),
        largest_extent_mm=(500.0, 312.0, 320.0),
        intensity_mean=MEAN,
        intensity_sd=SD,
        intensity_low=LOW,
        intensity_high=HIGH,
        labels=labels,
    )
    plan = decide(fingerprint, "CT", BUDGET)
    layout = Layout(listed=True)
    size = 3 if blur else 1
    network = torch.nn.Conv3d(1, len(labels) + 1, size, padding=size // 2)
    with torch.no_grad():
        cuts = [(value - MEAN) / SD for value in thresholds.values()]
        slopes = torch.arange(len(labels) + 1.0) / size**3
        network.weight.copy_(slopes.reshape(-1, 1, 1, 1, 1).expand_as(network.weight))
        assert network.bias is not None
        network.bias.copy_(-torch.tensor([0.0, *accumulate(cuts)]))
    config = make_configs(plan, layout, folder.name, "data")["inference"]
    config["network_def"] = {
        "_target_": "torch.nn.Conv3d",
        "in_channels": 1,
        "out_channels": len(labels) + 1,
        "kernel_size": size,
        "padding": size // 2,
    }
    for name, content in {
        "inference": config,
        "metadata": make_metadata(plan, fingerprint, layout, "phantoms", "nowhere") | metadata,
    }.items():
        (folder / "configs").mkdir(parents=True, exist_ok=True)
        (folder / "configs" / f"{name}.json").write_text(json.dumps(content, indent=4))
    (folder / "models").mkdir(exist_ok=True)
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def ball(shape: tuple[int, int, int], centre: tuple[float, ...], radius: float, spacing: tuple[float, ...]) -> Any:
    """Return a mask of a ball: centre and radius in mm of a grid with its first voxel at 0."""
    axes = [np.arange(size) * mm - at for size, mm, at in zip(shape, spacing, centre, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    return x**2 + y**2 + z**2 < radius**2

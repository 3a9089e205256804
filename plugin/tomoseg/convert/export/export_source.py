"""Network and weights to export."""

from dataclasses import dataclass
from pathlib import Path

import torch

from tomoseg.bundle.metadata import Bundle
from tomoseg.core.errors import BundleError, UsageError
from tomoseg.inference.config import InferenceConfig
from tomoseg.inference.sliding_window.fused_postprocessing import (
    FusedPostprocessing,
    recognise_inferer,
    recognise_postprocessing,
)
from tomoseg.inference.sliding_window.placement import NotRecognisedError


@dataclass(frozen=True, eq=False)
class ExportSource:
    """A bundle's network with its weights.

    Attributes:
        bundle: the bundle.
        config: its inference config.
        checkpoint: the file of the weights.
        network: with these weights, on the CPU.
        window: the shape (C, D, H, W) of the windows that it gets.
        fused: how labels are made of its logits; None where the engine does not know it.
    """

    bundle: Bundle
    config: InferenceConfig
    checkpoint: Path
    network: torch.nn.Module
    window: tuple[int, int, int, int]
    fused: FusedPostprocessing | None


def load_origin(bundle: Bundle, checkpoint: Path | None = None) -> ExportSource:
    """Load a bundle's network.

    Args:
        bundle: the bundle.
        checkpoint: weights in place of the bundle's own.

    Raises:
        BundleError: config or checkpoint is missing or damaged, or the windows are not of one size.
        UsageError: the bundle has several networks, and none of them was chosen.
    """
    config = InferenceConfig(bundle)
    path = checkpoint or config.checkpoints[0]
    if checkpoint is None and len(config.checkpoints) > 1:
        raise UsageError(
            f"bundle {bundle.name}: takes the mean of {len(config.checkpoints)} networks. Choose one with --checkpoint"
        )
    try:
        fused = recognise_postprocessing(
            config.postprocessing, config.preprocessing, config.image_key, config.prediction_key
        )
    except NotRecognisedError:
        fused = None
    return ExportSource(bundle, config, path, config.load_network(path), _window(bundle, config), fused)


def _window(bundle: Bundle, config: InferenceConfig) -> tuple[int, int, int, int]:
    """Return the shape (C, D, H, W) of a window: its size is the inferer's, its channels are the metadata's."""
    where = bundle.inference_config
    try:
        roi_size = recognise_inferer(config.inferer).roi_size
    except NotRecognisedError as reason:
        raise BundleError(
            f"{where}: expected a SlidingWindowInferer, whose windows are exported; got {reason}"
        ) from None
    sizes = tuple(roi_size) if isinstance(roi_size, list | tuple) else (roi_size,) * 3
    if len(sizes) != 3 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise BundleError(f"{where}: expected a roi_size of three voxels, for a network of one size; got {roi_size}")
    return (bundle.input_channels, *sizes)

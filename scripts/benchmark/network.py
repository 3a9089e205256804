"""The network that all peers run, and weights for it.

How right the labels are does not matter, but they have to be as smooth as a trained network's, because what follows
the network costs more where labels change from voxel to voxel. Training takes minutes and ends differently on each
machine, so the weights are set by hand: the first and the last layers recognise the phantom's organs by their HU, and
those between them, random and normalised, add a little to the scores. The computation is that of trained weights.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.nets import UNet
from numpy.typing import NDArray

from phantom import levels, phantom

CLASSES = 25
SPACING = (1.5, 1.5, 2.0)
WINDOW = (96, 96, 96)
# HU that become 0 and 1
HU_RANGE = (-100.0, 500.0)
NETWORK: dict[str, Any] = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": CLASSES,
    "channels": [16, 32, 64, 128, 256],
    "strides": [2, 2, 2, 2],
    "num_res_units": 2,
    "norm": "batch",
}
# the score of a class where every voxel around has its HU
PEAK = 10.0
# the background's head start, against rims of other classes around the organs, whose edges pass through their HU
HEAD_START = 2.0
# what the random channels add, relative to the step from one class to the next
NUDGE = 0.003
# further classes are copies whose scores are lower by this
PENALTY = 2.0
# names of layers in UNet: the first one's bypass and its last normalisation, the last upsampling, the last convolution
BYPASS, BESIDES, UP, LAST = "model.0.residual", "model.0.conv.unit1.adn.N", "model.2.0", "model.2.1.conv.unit0.conv"


def network_def(classes: int = CLASSES) -> dict[str, Any]:
    """The network as a bundle's config writes it."""
    return {**NETWORK, "out_channels": classes}


def make_network(classes: int = CLASSES) -> torch.nn.Module:
    """The network with weights yet to be loaded."""
    arguments = network_def(classes)
    del arguments["_target_"]
    network: torch.nn.Module = UNet(**arguments)
    return network.eval()


def write_weights(folder: Path, classes: int = CLASSES) -> Path:
    """Write `model.pt`, a state dict, into a folder, unless it is there; return its path."""
    path = folder / "model.pt"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        weights = make_weights()
        torch.save(weights if classes == CLASSES else widen(weights, classes), path)
    return path


def normalize(image: NDArray[Any]) -> NDArray[np.float32]:
    """Clip and scale HU as every peer does."""
    low, high = HU_RANGE
    scaled: NDArray[np.float32] = ((np.clip(image, low, high) - low) / (high - low)).astype(np.float32)
    return scaled


def make_weights() -> dict[str, torch.Tensor]:
    """Make the weights for 25 classes, the same ones each time."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = make_network()
        _calibrate(network)
        weights = network.state_dict()
        _tell_classes_by_hu(weights)
    return weights


def _calibrate(network: torch.nn.Module) -> None:
    """Let the batch normalisations see one scan, so that no layer's values grow or fade."""
    normalisations = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    for module in normalisations:
        module.momentum = 1.0
    image, _, _ = phantom(WINDOW, (4, 4, 4), CLASSES)
    network.train()(torch.from_numpy(normalize(image))[None, None])
    network.eval()


def _tell_classes_by_hu(weights: dict[str, torch.Tensor]) -> None:
    """Set the first and the last layers to: a vote of the 3×3×3 voxels around, each for the classes next to its HU."""
    grey = torch.from_numpy(normalize(levels(CLASSES)))
    step = grey[1] - grey[0]
    # linear interpolation to twice the size, of random channels
    tent = torch.tensor([0.5, 1.0, 0.5])
    weights[UP + ".conv.weight"][:] = tent[:, None, None] * tent[:, None] * tent
    weights[UP + ".conv.weight"] *= NUDGE * step * torch.randn(32, CLASSES, 1, 1, 1)
    # the layers of half the size keep each voxel of a 2×2×2 block in a channel of its own, for all classes to use
    for channel, (i, j, k) in enumerate(product((1, 2), repeat=3)):
        weights[BYPASS + ".weight"][channel] = 0
        weights[BYPASS + ".weight"][channel, 0, i, j, k] = 1
        weights[BYPASS + ".bias"][channel] = 0
        weights[BESIDES + ".weight"][channel] = 0
        weights[BESIDES + ".bias"][channel] = 0
        weights[UP + ".conv.weight"][channel] = 0
        weights[UP + ".conv.weight"][channel, :, i, j, k] = 1
    weights[UP + ".conv.bias"][:] = 0
    # hinges that rise from the HU of each class on …
    weights[UP + ".adn.N.running_mean"][:] = grey
    weights[UP + ".adn.N.running_var"][:] = 1
    weights[UP + ".adn.N.weight"][:] = 1 / step
    weights[UP + ".adn.N.bias"][:] = 0
    weights[UP + ".adn.A.weight"][:] = 0
    # … make, three by three, peaks at the HU of each class; the background's goes on to the darkest
    same = torch.eye(CLASSES)
    below, above = torch.diag(torch.ones(CLASSES - 1), -1), torch.diag(torch.ones(CLASSES - 1), 1)
    peaks = below - 2 * same + above
    peaks[0, 0] = -1
    peaks[0, 1] = 1
    weights[LAST + ".weight"][:] = (PEAK / 27 * peaks)[:, :, None, None, None]
    # the layer adds its input
    weights[LAST + ".weight"][:, :, 1, 1, 1] -= same
    weights[LAST + ".bias"][:] = 0
    weights[LAST + ".bias"][0] = PEAK + HEAD_START


def widen(weights: dict[str, torch.Tensor], classes: int) -> dict[str, torch.Tensor]:
    """Turn weights for 25 classes into those for more, the further ones paler copies of the first.

    The label map does not change; the network has the work of one trained for all classes.
    """
    source = torch.arange(classes) % CLASSES
    copies = torch.bincount(source, minlength=CLASSES)[source]
    wider = make_network(classes).state_dict()
    for name, shape in {name: tensor.shape for name, tensor in wider.items()}.items():
        tensor = weights[name]
        for axis in range(tensor.ndim):
            if tensor.shape[axis] != shape[axis]:
                tensor = tensor.index_select(axis, source)
        wider[name] = tensor.clone()
    # what one channel gave, its copies give together
    wider[LAST + ".weight"] /= copies[:, None, None, None]
    wider[LAST + ".bias"] -= PENALTY * (torch.arange(classes) >= CLASSES)
    return wider

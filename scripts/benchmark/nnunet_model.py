"""A results folder of nnU-Net, of the kind that TotalSegmentator publishes: a plain U-Net without mirroring.

Its layers are random, but for the last, which is fitted to the phantom's labels in seconds: label maps are as smooth as
those of a trained network, and the computation is the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from network import CLASSES, PENALTY, normalize
from nnunet_plans import CONFIGURATION, dataset, plans
from phantom import phantom

FEATURES = (32, 64, 128, 256, 320, 320)  # nnU-Net's
STAGES = len(FEATURES)
WINDOW = (128, 128, 128)
FIT_SHAPE, FIT_SPACING, FIT_STEPS, FIT_RATE = (96, 96, 64), (4.0, 4.0, 6.0), 100, 0.1
VOXELS_OF_CLASS = 2000  # at most, to fit
TENT = (0.25, 0.5, 0.25)


def write_model(folder: Path, classes: int, spacing: tuple[float, float, float]) -> Path:
    """Write a results folder, unless it is there; return it.

    Args:
        folder: of the dataset's results.
        classes: number of labels, the background included.
        spacing: of the network's grid, mm.
    """
    model = folder / f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}"
    checkpoint = model / "fold_0" / "checkpoint_final.pth"
    if checkpoint.is_file():
        return model
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    (model / "plans.json").write_text(json.dumps(plans(spacing, WINDOW, _architecture()), indent=4))
    (model / "dataset.json").write_text(json.dumps(dataset(classes), indent=4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = _fit(_network())
    content = {
        "network_weights": _widen(weights, classes),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": CONFIGURATION, "fold": 0},
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(content, checkpoint)
    return model


def _arguments() -> dict[str, Any]:
    return {
        "n_stages": STAGES,
        "features_per_stage": list(FEATURES),
        "kernel_sizes": [[3, 3, 3]] * STAGES,
        "strides": [[1, 1, 1], *([[2, 2, 2]] * (STAGES - 1))],
        "n_conv_per_stage": [2] * STAGES,
        "n_conv_per_stage_decoder": [2] * (STAGES - 1),
        "conv_bias": True,
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "nonlin_kwargs": {"inplace": True},
    }


def _architecture() -> dict[str, Any]:
    classes = {"conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU}
    names = {key: f"{cls.__module__}.{cls.__qualname__}" for key, cls in classes.items()}
    arguments = _arguments() | names | {"dropout_op": None, "dropout_op_kwargs": None}
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _network() -> PlainConvUNet:
    """Return a network that mixes channels at random and smooths along all axes, so that its labels are smooth."""
    network = PlainConvUNet(
        1, conv_op=nn.Conv3d, norm_op=nn.InstanceNorm3d, nonlin=nn.LeakyReLU, num_classes=CLASSES,
        deep_supervision=False, **_arguments(),
    ).eval()  # fmt: skip
    tent = torch.tensor(TENT)
    smooth = tent[:, None, None] * tent[:, None] * tent
    for module in network.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size == (3, 3, 3):
            module.weight.data = module.weight.data[:, :, :1, :1, :1] * smooth
        if isinstance(module, nn.ConvTranspose3d):
            module.weight.data = module.weight.data[:, :, :1, :1, :1].repeat(1, 1, 2, 2, 2)
    return network


def _fit(network: PlainConvUNet) -> dict[str, torch.Tensor]:
    """Fit the last layer to the labels of one phantom by regression; return all weights."""
    image, labels, _ = phantom(FIT_SHAPE, FIT_SPACING, CLASSES)
    seen: list[torch.Tensor] = []
    head = network.decoder.seg_layers[-1]
    with torch.no_grad(), head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        network(torch.from_numpy(normalize(image.T))[None, None])
    inputs = seen[0][0].flatten(1).T
    targets = torch.from_numpy(np.ascontiguousarray(labels.T)).flatten().long()
    places = [torch.nonzero(targets == label)[:, 0] for label in range(CLASSES)]
    chosen = torch.cat([place[:: 1 + len(place) // VOXELS_OF_CLASS] for place in places])
    layer = nn.Linear(inputs.shape[1], CLASSES)
    optimizer = torch.optim.Adam(layer.parameters(), FIT_RATE)
    for _ in range(FIT_STEPS):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(layer(inputs[chosen]), targets[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        head.weight.copy_(layer.weight[..., None, None, None])
        head.bias.copy_(layer.bias)
    weights: dict[str, torch.Tensor] = network.state_dict()
    return weights


def _widen(weights: dict[str, torch.Tensor], classes: int) -> dict[str, torch.Tensor]:
    """Return weights for more classes, the further ones paler copies of the first: the label map does not change."""
    source = torch.arange(classes) % CLASSES
    heads = {name: tensor[source].clone() for name, tensor in weights.items() if ".seg_layers." in name}
    for name in heads:
        if name.endswith(".bias"):
            heads[name] -= PENALTY * (torch.arange(classes) >= CLASSES)
    return weights | heads

"""The network of an nnU-Net in a bundle's config, with its weights along the axes of a scan's file."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from monai.networks.nets import DynUNet

from tomoseg.bundle.configs import Json
from tomoseg.convert.nnunet.plain_unet import load_plain_unet, turn_kernel
from tomoseg.convert.nnunet.plans import Architecture, Plans, Triple
from tomoseg.core.errors import BundleError, import_package
from tomoseg.inference.loaded_weights import difference
from tomoseg.planning.template import render_config

ARCHITECTURES = "dynamic_network_architectures.architectures.unet"
TEMPLATES = Path(__file__).parent / "templates"
Weights = Mapping[str, torch.Tensor]


def network_config(plans: Plans, heads: int, weights: Weights) -> Json:
    """Return `network_def`: MONAI's DynUNet where it computes the same, else the class that nnU-Net uses.

    Args:
        plans: of the model.
        heads: number of the network's outputs.
        weights: by nnU-Net's names; trainers may have put batch norms in the place of instance norms.
    """
    batch_norm = any(name.endswith("running_mean") for name in weights)
    return render_config(
        "network",
        TEMPLATES,
        is_dynunet=_is_dynunet(plans.architecture) and not batch_norm,
        package=ARCHITECTURES,
        architecture=plans.architecture,
        channels=len(plans.channels),
        heads=heads,
        batch_norm=batch_norm,
        kernels=[plans.along_file(kernel) for kernel in plans.architecture.kernels],
        strides=[plans.along_file(stride) for stride in plans.architecture.strides],
    )


def convert_weights(plans: Plans, network_def: Json, weights: Weights, source: str) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint as the bundle's network names and shapes them.

    Args:
        plans: of the model.
        network_def: what `network_config` returned.
        weights: by nnU-Net's names.
        source: what errors call the checkpoint.

    Raises:
        BundleError: names or shapes are not those of the plans.
        MissingPackageError: the network's package is not installed.
    """
    if network_def["_target_"] != DynUNet.__name__:
        import_package(ARCHITECTURES, "dynamic-network-architectures", "nnunet")
    with torch.device("meta"):  # names and shapes only: plans may ask for any amount of memory
        network = ConfigParser({"imports": ["$import torch"], "network_def": network_def}).get_parsed_content(
            "network_def"
        )
    if isinstance(network, DynUNet):
        load_plain_unet(network, weights, len(plans.architecture.features), plans.axes, source)
        return dict(network.state_dict())
    expected = network.state_dict()
    turned = {name: turn_kernel(tensor, plans.axes) for name, tensor in weights.items()}
    if reason := difference(expected, turned):
        raise BundleError(f"{source}: {reason}; do its plans belong to it?")
    return {name: turned[name] for name in expected}


def _is_dynunet(architecture: Architecture) -> bool:
    """Return whether DynUNet is the same network: two convolutions, decoder kernels within those a level deeper."""
    kernels = architecture.kernels
    return (
        architecture.name == "PlainConvUNet"
        and len(kernels) > 2
        and {*architecture.encoder, *architecture.decoder} == {2}
        and all(_within(kernel, deeper) for kernel, deeper in pairwise(kernels))
    )


def _within(kernel: Triple, deeper: Triple) -> bool:
    return all(small <= large and (large - small) % 2 == 0 for small, large in zip(kernel, deeper, strict=True))

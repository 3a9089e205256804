"""The network of an nnU-Net in a bundle's config, with its weights along the axes of a scan's file."""

from collections.abc import Mapping
from itertools import pairwise

import torch
from monai.bundle import ConfigParser
from monai.networks.nets import DynUNet

from tomoseg.bundle.configs import Json, component
from tomoseg.convert.nnunet.plain_unet import load_plain_unet, turn_kernel
from tomoseg.convert.nnunet.plans import Architecture, Plans, Triple
from tomoseg.core.errors import BundleError, import_package
from tomoseg.inference.loaded_weights import difference

ARCHITECTURES = "dynamic_network_architectures.architectures.unet"
Weights = Mapping[str, torch.Tensor]


def network_config(plans: Plans, heads: int, weights: Weights) -> Json:
    """Return `network_def`: MONAI's DynUNet where it computes the same, else the class that nnU-Net uses.

    Args:
        plans: of the model.
        heads: number of the network's outputs.
        weights: by nnU-Net's names; trainers may have put batch norms in the place of instance norms.
    """
    architecture = plans.architecture
    kernels = [plans.along_file(kernel) for kernel in architecture.kernels]
    strides = [plans.along_file(stride) for stride in architecture.strides]
    batch_norm = any(name.endswith("running_mean") for name in weights)
    if _is_dynunet(architecture) and not batch_norm:
        return component(
            "DynUNet",
            spatial_dims=3,
            in_channels=len(plans.channels),
            out_channels=heads,
            kernel_size=kernels,
            strides=strides,
            upsample_kernel_size=strides[1:],
            filters=list(architecture.features),
            norm_name=["INSTANCE", {"affine": True, "eps": architecture.epsilon}],
            act_name=["leakyrelu", {"inplace": True, "negative_slope": architecture.slope}],
            trans_bias=True,
        )
    blocks = "n_conv_per_stage" if architecture.name == "PlainConvUNet" else "n_blocks_per_stage"
    return component(
        f"{ARCHITECTURES}.{architecture.name}",
        input_channels=len(plans.channels),
        n_stages=len(architecture.features),
        features_per_stage=list(architecture.features),
        conv_op="$torch.nn.Conv3d",
        kernel_sizes=kernels,
        strides=strides,
        **{blocks: list(architecture.encoder)},
        num_classes=heads,
        n_conv_per_stage_decoder=list(architecture.decoder),
        conv_bias=architecture.bias,
        norm_op=f"$torch.nn.{'BatchNorm3d' if batch_norm else 'InstanceNorm3d'}",
        norm_op_kwargs={"affine": True, "eps": architecture.epsilon},
        nonlin="$torch.nn.LeakyReLU",
        nonlin_kwargs={"inplace": True, "negative_slope": architecture.slope},
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

"""Make nnU-Net v2 results folders out of the shipped weights.

`PYTHONPATH=tests python -m support.nnunet.models FOLDER [KIND …]`. The weights go backwards into nnU-Net's names, axis
order and plans, so a model of each kind segments real anatomy. Needs torch and NumPy only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from support.nnunet.residual import Residual

Weights = dict[str, torch.Tensor]
BUNDLES = Path(__file__).resolve().parents[3] / "monai_bundle"
HIPPOCAMPUS, HEAD_NECK = "hippocampus_mr_segmentation", "head_neck_ct_segmentation"
CONFIGURATION = "3d_fullres"
TRAINED = "nnUNetTrainer__nnUNetPlans__3d_fullres"
CONV = "torch.nn.modules.conv.Conv3d"
NORM = "torch.nn.modules.instancenorm.InstanceNorm3d"
HIPPOCAMPUS_LABELS = {"background": 0, "anterior": 1, "posterior": 2}
HEAD_NECK_LABELS = {
    "background": 0,
    "brainstem": 1,
    "spinal_cord": 2,
    "parotid_right": 3,
    "parotid_left": 4,
    "mandible": 5,
}
# ScaleIntensityRanged of the bundle, as CTNormalization says it
HEAD_NECK_HU = {"mean": 237.1, "std": 424.53, "percentile_00_5": -110.0, "percentile_99_5": 1611.0, "median": 150.0}
REGION_MATRIX = torch.tensor([[-1.0, 0.5, 0.5], [-0.5, -0.5, 1.0]])  # scores of whole and posterior from the labels'


@dataclass(frozen=True)
class Kind:
    """One kind of an nnU-Net model.

    Attributes:
        bundle: whose weights it has.
        spacing: mm, along network axes.
        patch: voxels, along network axes.
        transpose: the plans' `transpose_forward`.
        folds: number of networks.
        mirror: axes of mirroring; None for none.
        mask_norm: whether normalisation leaves out the outside.
        regions: whether heads are regions.
        old: whether plans have no `architecture`.
        thick: whether the first stage has 1×3×3 kernels.
        residual: whether the encoder is residual.
        reader: the plans' `image_reader_writer`.
    """

    bundle: str
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    patch: tuple[int, ...] = (40, 56, 40)
    transpose: tuple[int, ...] = (0, 1, 2)
    folds: int = 1
    mirror: tuple[int, ...] | None = None
    mask_norm: bool = False
    regions: bool = False
    old: bool = False
    thick: bool = False
    residual: bool = False
    reader: str = "SimpleITKIO"


KINDS = {
    "isotropic": Kind(HIPPOCAMPUS),
    "thick_slices": Kind(HIPPOCAMPUS, spacing=(3.5, 1.0, 1.0), patch=(16, 56, 40), thick=True),
    "transposed": Kind(HEAD_NECK, spacing=(3.906, 2.5, 3.906), patch=(64, 96, 64), transpose=(1, 0, 2)),
    "mask_norm": Kind(HIPPOCAMPUS, mask_norm=True, reader="NibabelIOWithReorient"),
    "folds": Kind(HIPPOCAMPUS, folds=3, mirror=(1, 2)),
    "regions": Kind(HIPPOCAMPUS, regions=True),
    "old_plans": Kind(HIPPOCAMPUS, old=True, reader="SimpleITKIOWithReorient", mirror=(2,)),
    "residual": Kind(HIPPOCAMPUS, residual=True),
}


def write_model(kind: Kind, folder: Path) -> Path:
    """Write a results folder of nnU-Net; return the folder with `plans.json`.

    Args:
        kind: of the model.
        folder: of the dataset, `Dataset901_NAME`.
    """
    model = folder / TRAINED
    model.mkdir(parents=True)
    shipped = torch.load(BUNDLES / kind.bundle / "models" / "model.pt", map_location="cpu", weights_only=True)
    architecture = _architecture(kind, features_per_stage(shipped))
    for name, content in (
        ("plans", _plans(kind, folder.name, architecture)),
        ("dataset", _dataset(kind)),
        ("dataset_fingerprint", _fingerprint(kind)),
    ):
        (model / f"{name}.json").write_text(json.dumps(content, indent=4))
    for fold in range(kind.folds):
        weights = carry(shipped, kind)
        if fold:
            _shake(weights, fold)
        (model / f"fold_{fold}").mkdir()
        torch.save(_checkpoint(kind, fold, weights), model / f"fold_{fold}" / "checkpoint_final.pth")
    return model


def features_per_stage(shipped: Mapping[str, torch.Tensor]) -> list[int]:
    """Return the channels of a DynUNet's levels, the bottleneck's last."""
    norms = [name for name in shipped if name.endswith(".norm1.weight")]
    down = sorted(name for name in norms if name.startswith("downsamples."))
    return [len(shipped[name]) for name in ("input_block.norm1.weight", *down, "bottleneck.norm1.weight")]


def carry(shipped: Mapping[str, torch.Tensor], kind: Kind) -> Weights:
    """Return a DynUNet's weights in the names and the axis order of nnU-Net's networks."""
    features = features_per_stage(shipped)
    levels = len(features) - 1
    blocks = {"input_block": "encoder.stages.0.0.convs", "bottleneck": f"encoder.stages.{levels}.0.convs"}
    blocks |= {f"downsamples.{i}": f"encoder.stages.{i + 1}.0.convs" for i in range(levels - 1)}
    blocks |= {f"upsamples.{i}.conv_block": f"decoder.stages.{i}.convs" for i in range(levels)}
    weights: Weights = {}
    for ours, theirs in blocks.items():
        thin = kind.thick and ours in ("input_block", f"upsamples.{levels - 1}.conv_block")
        for number in (1, 2):
            kernel = _turned(shipped[f"{ours}.conv{number}.conv.weight"], kind)
            kernel = kernel.sum(2, keepdim=True) if thin else kernel
            parts = {"conv.weight": kernel, "conv.bias": torch.zeros(len(kernel))}
            parts |= {f"norm.{part}": shipped[f"{ours}.norm{number}.{part}"] for part in ("weight", "bias")}
            weights |= {f"{theirs}.{number - 1}.{name}": tensor for name, tensor in parts.items()}
    for level in range(levels):
        kernel = _turned(shipped[f"upsamples.{level}.transp_conv.conv.weight"], kind)
        kernel = kernel.mean(2, keepdim=True) if kind.thick and level == levels - 1 else kernel
        weights[f"decoder.transpconvs.{level}.weight"] = kernel
        weights[f"decoder.transpconvs.{level}.bias"] = torch.zeros(kernel.shape[1])
    head, bias = shipped["output_block.conv.conv.weight"], shipped["output_block.conv.conv.bias"]
    if kind.regions:
        head, bias = torch.einsum("rc,cfxyz->rfxyz", REGION_MATRIX, head), REGION_MATRIX @ bias
    for level in range(levels):  # those of deep supervision come before the last
        last = level == levels - 1
        inputs = shipped[f"upsamples.{level}.conv_block.norm2.weight"].shape[0]
        weights[f"decoder.seg_layers.{level}.weight"] = head if last else torch.zeros(len(bias), inputs, 1, 1, 1)
        weights[f"decoder.seg_layers.{level}.bias"] = bias if last else torch.zeros(len(bias))
    return _with_all_names(Residual(features).carry(weights) if kind.residual else weights)


def _with_all_names(weights: Weights) -> Weights:
    """Return the weights under all the names by which nnU-Net saves each of them."""
    same = {}
    for name, tensor in weights.items():
        for number, module in enumerate(("conv", "norm")):
            for what in ("weight", "bias"):
                if name.endswith(f".{module}.{what}"):
                    same[f"{name.removesuffix(f'{module}.{what}')}all_modules.{number}.{what}"] = tensor
    again = {f"decoder.{name}": tensor for name, tensor in (weights | same).items() if name.startswith("encoder.")}
    return {name: tensor.clone().contiguous() for name, tensor in (weights | same | again).items()}


def _turned(kernel: torch.Tensor, kind: Kind) -> torch.Tensor:
    """Return a kernel of file axes x, y, z along the axes of nnU-Net's network."""
    return kernel.permute(0, 1, *(2 + 2 - axis for axis in kind.transpose))


def _shake(weights: Weights, seed: int) -> None:
    """Make a fold differ from the first, alike in all the names of a tensor."""
    random = torch.Generator().manual_seed(seed)
    noise: dict[tuple[str, ...], torch.Tensor] = {}
    for name, tensor in weights.items():
        plain = name.removeprefix("decoder.") if "encoder." in name else name
        key = tuple(plain.replace("all_modules.0", "conv").replace("all_modules.1", "norm").split("."))
        if key not in noise:
            noise[key] = torch.randn(tensor.shape, generator=random) * tensor.std(correction=0) * 0.03
        tensor += noise[key]


def _architecture(kind: Kind, features: list[int]) -> dict[str, Any]:
    stages = len(features)
    kernels = [[3, 3, 3]] * stages
    strides = [[1, 1, 1], *([[2, 2, 2]] * (stages - 1))]
    if kind.thick:
        kernels, strides = [[1, 3, 3], *kernels[1:]], [[1, 1, 1], [1, 2, 2], *strides[2:]]
    encoder = Residual(features).arguments() if kind.residual else {"n_conv_per_stage": [2] * stages}
    name = "ResidualEncoderUNet" if kind.residual else "PlainConvUNet"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": features,
            "conv_op": CONV,
            "kernel_sizes": kernels,
            "strides": strides,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": NORM,
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
            **encoder,
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _plans(kind: Kind, dataset: str, architecture: dict[str, Any]) -> dict[str, Any]:
    arguments = architecture["arch_kwargs"]
    configuration: dict[str, Any] = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(kind.patch),
        "median_image_size_in_voxels": [float(size) for size in kind.patch],
        "spacing": list(kind.spacing),
        "normalization_schemes": ["ZScoreNormalization" if kind.bundle == HIPPOCAMPUS else "CTNormalization"],
        "use_mask_for_norm": [kind.mask_norm],
        "batch_dice": True,
    }
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        configuration[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
        options = {"is_seg": what == "seg", "order": order, "order_z": 0, "force_separate_z": None}
        configuration[f"resampling_fn_{what}_kwargs"] = options
    if kind.old:
        configuration |= {
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": arguments["features_per_stage"][0],
            "unet_max_num_features": 320,
            "n_conv_per_stage_encoder": arguments["n_conv_per_stage"],
            "n_conv_per_stage_decoder": arguments["n_conv_per_stage_decoder"],
            "num_pool_per_axis": [arguments["n_stages"] - 1] * 3,
            "pool_op_kernel_sizes": arguments["strides"],
            "conv_kernel_sizes": arguments["kernel_sizes"],
        }
    else:
        configuration["architecture"] = architecture
    transpose = list(kind.transpose)
    properties = HEAD_NECK_HU if kind.bundle == HEAD_NECK else {}
    return {
        "dataset_name": dataset,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": list(kind.spacing),
        "original_median_shape_after_transp": list(kind.patch),
        "image_reader_writer": kind.reader,
        "transpose_forward": transpose,
        "transpose_backward": [transpose.index(axis) for axis in range(3)],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {"max": 3000.0, "min": -1000.0, **properties}},
    }


def _dataset(kind: Kind) -> dict[str, Any]:
    labels: dict[str, Any] = HIPPOCAMPUS_LABELS if kind.bundle == HIPPOCAMPUS else HEAD_NECK_LABELS
    dataset: dict[str, Any] = {"channel_names": {"0": "MRI" if kind.bundle == HIPPOCAMPUS else "CT"}}
    if kind.regions:
        labels = {"background": 0, "hippocampus": [1, 2], "posterior": 2}
        dataset["regions_class_order"] = [1, 2]
    return dataset | {"labels": labels, "numTraining": 20, "file_ending": ".nii.gz", "licence": "Apache-2.0"}


def _fingerprint(kind: Kind) -> dict[str, Any]:
    return {
        "foreground_intensity_properties_per_channel": {"0": HEAD_NECK_HU},
        "median_relative_size_after_cropping": 1.0,
        "shapes_after_crop": [list(kind.patch)] * 2,
        "spacings": [list(kind.spacing)] * 2,
    }


def _checkpoint(kind: Kind, fold: int, weights: Weights) -> dict[str, Any]:
    """What nnU-Net's trainer saves, NumPy scalars included."""
    ema = np.float64(0.9)
    return {
        "network_weights": weights,
        "optimizer_state": {"state": {}, "param_groups": []},
        "grad_scaler_state": None,
        "logging": {"ema_fg_dice": [ema], "mean_fg_dice": [ema], "dice_per_class_or_region": [[np.float32(0.9)]]},
        "_best_ema": ema,
        "current_epoch": 1000,
        "init_args": {"configuration": CONFIGURATION, "fold": fold, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": kind.mirror,
    }


def main() -> None:
    folder = Path(sys.argv[1])
    for number, (name, kind) in enumerate(KINDS.items(), 901):
        if name in (sys.argv[2:] or KINDS):
            print(write_model(kind, folder / f"Dataset{number}_{name}"))


if __name__ == "__main__":
    main()

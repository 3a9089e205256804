"""What nnU-Net's planning writes for a CT dataset, as far as prediction reads it; axes are in the order z, y, x."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from network import HU_RANGE

CONFIGURATION = "3d_fullres"
FILE_ENDING = ".nii.gz"
# nothing is built from it, but plans without it count as an old version
NO_ARCHITECTURE: dict[str, Any] = {"network_class_name": "UNet", "arch_kwargs": {}, "_kw_requires_import": []}


def plans(
    spacing: Sequence[float],
    window: Sequence[int],
    architecture: dict[str, Any] = NO_ARCHITECTURE,
    torch_resampling: bool = False,
) -> dict[str, Any]:
    """Return the plans.

    Args:
        spacing: of the network's grid, mm, in the order x, y, z.
        window: voxels, likewise.
        architecture: of the network.
        torch_resampling: not nnU-Net's default, but faster.
    """
    low, high = HU_RANGE
    resampling: dict[str, Any] = {}
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        seg = what == "seg"
        if torch_resampling:
            resampling[f"resampling_fn_{what}"] = "resample_torch_fornnunet"
            resampling[f"resampling_fn_{what}_kwargs"] = {"is_seg": seg, "force_separate_z": False}
        else:
            resampling[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
            resampling[f"resampling_fn_{what}_kwargs"] = {
                "is_seg": seg,
                "order": order,
                "order_z": 0,
                "force_separate_z": None,
            }
    return {
        "dataset_name": "Dataset001_Benchmark",
        "plans_name": "nnUNetPlans",
        # reads the scan as Orientationd to RAS does
        "image_reader_writer": "SimpleITKIOWithReorient",
        "label_manager": "LabelManager",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        # its normalisation clips to the percentiles, subtracts the mean and divides by the deviation
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": low, "std": high - low, "percentile_00_5": low, "percentile_99_5": high}
        },
        "configurations": {
            CONFIGURATION: {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": list(reversed(window)),
                "spacing": list(reversed(spacing)),
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "batch_dice": False,
                "architecture": architecture,
                **resampling,
            }
        },
    }


def dataset(classes: int) -> dict[str, Any]:
    """Return what nnU-Net's dataset.json says."""
    labels = {"background": 0} | {f"organ {label}": label for label in range(1, classes)}
    return {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": FILE_ENDING}

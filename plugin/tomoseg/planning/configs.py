"""The configs of a planned bundle, which name nothing but MONAI, torch and Python."""

from itertools import accumulate
from typing import Any

from tomoseg.bundle.configs import Json
from tomoseg.data.datasets import LABEL_ENDINGS
from tomoseg.data.formats import VOLUME_SUFFIXES
from tomoseg.planning.layout import NIFTI_SUFFIXES, Layout
from tomoseg.planning.network import triple
from tomoseg.planning.rules import FOLDS, TrainingPlan, coarse_axes, moved_by
from tomoseg.planning.template import render_config

BACKGROUND_WINDOWS_PER_LABEL = 2  # windows on the background for one on a label
MAX_SHORTENING = 8  # times shorter than a window
THICK_MM = 3.6  # slices of many scans in use
MAX_ANGLE_RAD = 0.35
MAX_SCALING = 0.25
NO_BLUR_SD = 0.1  # voxels: a kernel of 1 and zeros


def make_configs(plan: TrainingPlan, layout: Layout, name: str, dataset: str) -> dict[str, Json]:
    """Return the configs that run, evaluate and train a planned bundle, by the names of their files.

    Args:
        plan: the decisions.
        layout: where scans and label maps lie.
        name: of the bundle.
        dataset: name of the dataset's folder.
    """
    values: dict[str, Any] = {
        "plan": plan,
        "layout": layout,
        "name": name,
        "dataset": dataset,
        "limits": augmentation_limits(plan),
        "max_folds": FOLDS,
        "suffixes": NIFTI_SUFFIXES,
        "label_suffixes": tuple(ending + suffix for ending in LABEL_ENDINGS for suffix in NIFTI_SUFFIXES),
        "volume_suffixes": VOLUME_SUFFIXES,
        "loss_entries": loss_entries(plan),
        "network": plan.network.config(supervised=False),
        "mirror_axes": plan.mirror_axes,
        "datalist": layout.datalist,
    }
    templates = {"inference": "planned_inference"} | {
        stem: stem for stem in ("evaluate", "multi_gpu_evaluate", "train", "semi_supervised", "multi_gpu_train")
    }
    return {stem: render_config(template, **values) for stem, template in templates.items()}


def loss_entries(plan: TrainingPlan) -> Json:
    """Return the entries of train.json from `label` and the network's levels to one number."""
    strides = plan.network.strides[1 : plan.network.heads + 1]
    steps = accumulate(
        strides,
        lambda before, by: triple(edge * factor for edge, factor in zip(before, by, strict=True)),
        initial=(1, 1, 1),
    )
    return render_config("loss", plan=plan, strides=strides, steps=list(steps))


def augmentation_limits(plan: TrainingPlan) -> dict[str, Any]:
    """Return how far crops are turned, scaled, moved, blurred and cut off.

    MONAI turns voxels, not millimetres: where one of two axes is coarse, a scan would be sheared in their plane, and
    most slices would leave the window. As in nnU-Net, slices are then turned and scaled within themselves.
    """
    x, y, z = plan.spacing_mm
    # scans in use are often coarser than those of a dataset, and often along one axis only;
    # nnU-Net's limits are half the resolution and a blur of 1 voxel
    coarsest = max(0.28, min(0.5, min(plan.spacing_mm) / THICK_MM))
    return {
        "turns": [0.0 if any(coarse_axes((*pair, min(pair)))) else MAX_ANGLE_RAD for pair in ((y, z), (x, z), (x, y))],
        "scaling": [0.0 if coarse else MAX_SCALING for coarse in plan.coarse],
        "moves": moved_by(plan.patch, plan.spacing_mm),
        "blur": {
            f"sigma_{axis}": [NO_BLUR_SD, NO_BLUR_SD] if coarse else [0.3, max(1.0, min(1.5, 0.5 * THICK_MM / spacing))]
            for axis, spacing, coarse in zip("xyz", plan.spacing_mm, plan.coarse, strict=True)
        },
        "zoom": [round(coarsest, 2), 1.0],
        "border": [size // 2 for size in plan.patch],
        "shortest": ["$@crop_size[0]", "$@crop_size[1]", max(plan.patch[2] // MAX_SHORTENING, 1)],
        "ratios": [float(f"{BACKGROUND_WINDOWS_PER_LABEL * sum(plan.ratios):.4g}"), *plan.ratios],
    }

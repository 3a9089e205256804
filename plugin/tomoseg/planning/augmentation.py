"""How scans are changed at random for a training: where they are cut and turned, and what becomes of their values."""

from typing import Any

from tomoseg.bundle.configs import Json, component
from tomoseg.planning import data_config
from tomoseg.planning.data_config import KEYS, MODES, one_or_all
from tomoseg.planning.rules import TrainingPlan, coarse_axes, moved_by

BACKGROUND_WINDOWS_PER_LABEL = 2  # windows on the background for one on a label
MOVED_SHARE = 0.15  # of the crops, by up to half a window
SHORTENED_SHARE = 0.5  # of the crops; with 0.15 the network took upper teeth for lower ones in a head alone
MAX_SHORTENING = 8  # times shorter than a window
THICK_MM = 3.6  # slices of many scans in use
MAX_ANGLE_RAD = 0.35
MAX_SCALING = 0.25
NO_BLUR_SD = 0.1  # voxels: a kernel of 1 and zeros


def labelled_augmentation(plan: TrainingPlan) -> list[Json]:
    """Return the augmentation of scan and label map; a third of the crops lie on a label."""
    image, label = KEYS
    steps: list[Json] = []
    if plan.cut:
        steps.append(
            component(
                "RandCropByLabelClassesd",
                keys=KEYS,
                label_key=label,
                spatial_size="@crop_size",
                ratios=[float(f"{BACKGROUND_WINDOWS_PER_LABEL * sum(plan.ratios):.4g}"), *plan.ratios],
                num_classes=plan.network.out_channels,
                indices_key=f"${label} + '_cls_indices'",
                warn=False,
            )
        )
    else:  # a part of a negative: the cases themselves are no larger than a crop
        steps.append(component("RandSpatialCropd", keys=KEYS, roi_size="@crop_size", random_size=False))
    steps += [*_cut_off(plan), *turned(plan, KEYS), *valued(plan, image)]
    chosen = component("SelectItemsd", keys=KEYS)  # cases may differ in what else they have
    return [*steps, chosen, _tensors(KEYS)]


def unlabelled_augmentation(plan: TrainingPlan, image: str, student: str) -> list[Json]:
    """Return the augmentation of a scan without label map: turned for both networks, then changed for the student.

    Args:
        plan: the decisions.
        image: key of the scan, which the teacher sees.
        student: key of what the student sees, which is made.
    """
    steps: list[Json] = []
    if plan.cut:
        steps.append(component("RandSpatialCropd", keys=image, roi_size="@crop_size", random_size=False))
    copied = component("CopyItemsd", keys=image, names=student)
    return [*steps, *turned(plan, [image]), copied, *valued(plan, student), _tensors([image, student])]


def turned(plan: TrainingPlan, keys: list[str]) -> list[Json]:
    """Return what turns, scales, moves and mirrors a scan, and its label map if that is the second key.

    MONAI turns voxels, not millimetres: where one of two axes is coarse, a scan would be sheared in their plane, and
    most slices would leave the window. As in nnU-Net, slices are then turned and scaled within themselves.
    """
    x, y, z = plan.spacing_mm
    turns = [0.0 if any(coarse_axes((*pair, min(pair)))) else MAX_ANGLE_RAD for pair in ((y, z), (x, z), (x, y))]
    where = one_or_all(keys)
    affine = component(
        "RandAffined",
        keys=where,
        prob=0.6,
        rotate_range=turns,
        scale_range=[0.0 if coarse else MAX_SCALING for coarse in plan.coarse],
        translate_range=list(moved_by(plan.patch, plan.spacing_mm)),
        spatial_size="@patch_size",
        mode=one_or_all(MODES[: len(keys)]),
        device="$torch.device(@cache_device)",
        padding_mode="zeros" if plan.intensities is None else "border",
    )
    flips = [component("RandFlipd", keys=where, prob=0.5, spatial_axis=axis) for axis in plan.mirror_axes]
    return [affine, *flips]


def valued(plan: TrainingPlan, key: str) -> list[Json]:
    """Return what changes the values of a scan and leaves every voxel where it is."""

    def change(target: str, **options: Any) -> Json:
        return component(target, keys=key, **options)

    # scans in use are often coarser than those of a dataset, and often along one axis only;
    # nnU-Net's limits are half the resolution and a blur of 1 voxel
    coarsest = max(0.28, min(0.5, min(plan.spacing_mm) / THICK_MM))
    blur = {
        f"sigma_{axis}": [NO_BLUR_SD, NO_BLUR_SD] if coarse else [0.3, max(1.0, min(1.5, 0.5 * THICK_MM / spacing))]
        for axis, spacing, coarse in zip("xyz", plan.spacing_mm, plan.coarse, strict=True)
    }
    low = change("RandSimulateLowResolutiond", prob=0.4, zoom_range=[round(coarsest, 2), 1.0], downsample_mode="area")
    # that takes from all axes alike, and a coarse one has nothing to spare: a blur of the others does it then
    lowered = [] if any(plan.coarse) else [low]
    steps = [
        change("RandGaussianNoised", prob=0.15, std=0.2),
        change("RandGaussianSmoothd", prob=0.2 if lowered else 0.4, **blur),
    ]
    if plan.modality != "CT":
        steps.append(change("RandBiasFieldd", prob=0.1, coeff_range=[0.0, 0.1]))
    return [
        *steps,
        change("RandStdShiftIntensityd", prob=0.15, factors=0.3),
        change("RandScaleIntensityd", prob=0.15, factors=0.3),
        *lowered,
        change("RandAdjustContrastd", prob=0.3, gamma=[0.7, 1.5], retain_stats=True),
    ]


def _cut_off(plan: TrainingPlan) -> list[Json]:
    """Return what cuts some crops of a CT off, with air on the other side.

    A scan that is to be segmented may be wider or longer than all those of the dataset, so that windows lie beside the
    body, hold one end of it, or nothing but air: crops are moved by up to half a window. It may also be shorter, and
    hold the skull or the shoulders only: crops are shortened along the body, as a window pads a short scan.
    """
    if plan.intensities is None or not plan.cut:
        return []
    border = [size // 2 for size in plan.patch]
    shortest = ["$@crop_size[0]", "$@crop_size[1]", max(plan.patch[2] // MAX_SHORTENING, 1)]
    moved = [
        *_padded(plan, "BorderPadd", spatial_border=border),
        component("RandSpatialCropd", keys=KEYS, roi_size="@crop_size", random_size=False),
    ]
    shortened = [
        component("RandSpatialCropd", keys=KEYS, roi_size=shortest, max_roi_size="@crop_size", random_size=True),
        *_padded(plan, "SpatialPadd", spatial_size="@crop_size"),
    ]
    choices = [component("Compose", transforms=steps) for steps in (moved, shortened)]
    choices.append(component("Identityd", keys=KEYS))
    weights = [MOVED_SHARE, SHORTENED_SHARE, 1 - MOVED_SHARE - SHORTENED_SHARE]
    return [component("OneOf", transforms=choices, weights=weights)]


def _padded(plan: TrainingPlan, target: str, **options: Any) -> list[Json]:
    image, label = KEYS
    return [
        component(target, keys=image, **options, value=data_config.outside(plan)),
        component(target, keys=label, **options),
    ]


def _tensors(keys: list[str]) -> Json:
    return component("EnsureTyped", keys=keys, track_meta=False)

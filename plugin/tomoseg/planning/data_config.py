"""What all configs of a planned bundle say of the data: how a scan, and its label map, are read and prepared."""

from typing import Any

from tomoseg.bundle.configs import Json, component
from tomoseg.data.channels import FIRST_CHANNEL
from tomoseg.planning.layout import Layout
from tomoseg.planning.rules import TrainingPlan

SUFFIXES = (".nii.gz", ".nii")
KEYS = ["@image_key", "@label_key"]  # of a training case
MODES = ["bilinear", "nearest"]  # how scan and label map are interpolated


def one_or_all(values: list[str]) -> str | list[str]:
    """Return a list as a config has it: a single value stands alone."""
    return values if len(values) > 1 else values[0]


def scans_to_segment(layout: Layout) -> str:
    """Return the expression for the list of scans in `dataset_dir`."""
    found = f"for f in sorted(os.listdir(@dataset_dir)) if f.endswith({SUFFIXES}) and not f.startswith('.')"
    if layout.files == 1:
        return f"$[{{'image': os.path.join(@dataset_dir, f)}} {found}]"
    firsts = tuple(FIRST_CHANNEL + suffix for suffix in SUFFIXES)
    part = "os.path.join(@dataset_dir, '_{:04}'.format(c).join(f.rsplit('_0000', 1)))"
    return f"$[{{'image': [{part} for c in range({layout.files})]}} {found.replace(str(SUFFIXES), str(firsts))}]"


def scan(plan: TrainingPlan, key: str) -> list[Json]:
    """Return what reads a scan and brings it to the network's grid and intensities; a label map stays as it was drawn.

    Args:
        plan: the decisions.
        key: of the scan.
    """
    return [*load(plan, [key]), *spatial(plan, [key]), intensities(plan, key)]


def load(plan: TrainingPlan, keys: list[str]) -> list[Json]:
    """Return what reads scan, or scan and label map."""
    # MONAI's reader keeps the names of the files that it reads: threads that read two files of a scan, and one label
    # map, by the same reader lose channels (seen with MONAI 1.6)
    apart: list[Any] = [*keys] if len(keys) == 1 or plan.network.channels > 1 else [keys]
    return [component("LoadImaged", keys=group, ensure_channel_first=True) for group in apart]


def spatial(plan: TrainingPlan, keys: list[str]) -> list[Json]:
    """Return orientation and spacing."""
    return [
        component("Orientationd", keys=one_or_all(keys), axcodes="RAS", labels=None),
        component("Spacingd", keys=one_or_all(keys), pixdim=list(plan.spacing_mm), mode=one_or_all(MODES[: len(keys)])),
    ]


def intensities(plan: TrainingPlan, key: str) -> Json:
    """Return the transforms of the intensities."""
    if plan.drawing is not None:
        return component(
            "ScaleIntensityRangePercentilesd", keys=key, lower=0.5, upper=99.5, b_min=0.0, b_max=1.0, clip=True
        )
    if plan.intensities is None:
        step: Json = component("NormalizeIntensityd", keys=key)
        if plan.nonzero:
            step["nonzero"] = True
        return step | {"channel_wise": True} if plan.network.channels > 1 else step
    low, high, mean, sd = plan.intensities
    return component(
        "ScaleIntensityRanged",
        keys=key,
        a_min=low,
        a_max=high,
        b_min=round((low - mean) / sd, 6),
        b_max=round((high - mean) / sd, 6),
        clip=True,
    )


def label_values(plan: TrainingPlan, key: str) -> list[Json]:
    """Return what makes the network's labels of the dataset's; the first value beyond them is to be ignored."""
    values = dict(zip(plan.sources, plan.labels, strict=True))
    if plan.ignored is not None:
        values[plan.ignored] = plan.network.out_channels
    elif plan.sources == tuple(plan.labels):
        return []
    return [component("MapLabelValued", keys=key, orig_labels=list(values), target_labels=list(values.values()))]


def change(entries: str) -> Json:
    """Return a transform that replaces entries of a case.

    A bare function would do, too, but MONAI caches nothing of what comes after one.

    Args:
        entries: as in a dictionary, of `data`.
    """
    return component("Lambda", func=f"$lambda data: {{**data, {entries}}}")


def label_type(plan: TrainingPlan) -> str:
    """Return the config entry that holds the rows of `possible`, one for each set of annotated labels."""
    if plan.masked:
        return "$torch.uint8 if len(@possible) < 256 else torch.int16"
    return "$torch.uint8" if plan.network.out_channels < 256 else "$torch.int16"


def drawn_only(plan: TrainingPlan, label: str) -> list[Json]:
    """Return what makes background of labels that were not drawn in a case, though some voxels may have them."""
    if not plan.partial:
        return []
    return [
        change(
            f"{label}: data[{label}] * torch.tensor([True, *@drawn[data.get('drawn', @all_drawn)], True])"
            f".to(data[{label}])[data[{label}].long()]"
        )
    ]


def forget_ignored(plan: TrainingPlan, label: str) -> list[Json]:
    """Return what remembers where the ignore label lies, and makes background of it."""
    if plan.ignored is None:
        return []
    return [
        change(
            f"'known': data[{label}] < {plan.network.out_channels}, "
            f"{label}: data[{label}] * (data[{label}] < {plan.network.out_channels})"
        )
    ]


def prediction_and_label(plan: TrainingPlan, label: str) -> list[Json]:
    """Return what makes one channel for each label, of scores and label map, without what the ignore label covers."""
    several = component("AsDiscreted", keys=["pred", label], argmax=[True, False], to_onehot=plan.network.out_channels)
    known = change("'pred': data['pred'] * data['known'].to(data['pred'].device)")
    return [several] if plan.ignored is None else [several, known]


def outside(plan: TrainingPlan) -> float:
    """Return the value of what lies beyond a scan: in CT the lowest, which is air, else the mean of the image."""
    return 0.0 if plan.intensities is None else float(intensities(plan, "image")["b_min"])


def pad(plan: TrainingPlan, keys: list[str], size: str) -> list[Json]:
    """Return what makes a scan, and its label map, at least as large as `size`, as the inferer does."""
    if plan.intensities is None:
        return [component("SpatialPadd", keys=one_or_all(keys), spatial_size=size)]
    image, *labels = keys
    return [
        component("SpatialPadd", keys=image, spatial_size=size, value=outside(plan)),
        *[component("SpatialPadd", keys=label, spatial_size=size) for label in labels],
    ]


def inferer(plan: TrainingPlan, roi_size: Any) -> Json:
    """Return the sliding window."""
    step = component("SlidingWindowInferer", roi_size=roi_size, sw_batch_size=2, overlap=0.5, mode="gaussian")
    return step if plan.intensities is None else step | {"cval": outside(plan)}


def dice_of_each(plan: TrainingPlan, label: str) -> Json:
    """Return a metric for each label."""
    return {
        f"val_dice_{name}": component(
            "MeanDice",
            include_background=False,
            output_transform=f"$lambda out: ([o['pred'][[0, {value}]] for o in out], "
            f"[o[{label}][[0, {value}]] for o in out])",
        )
        for value, name in plan.labels.items()
    }

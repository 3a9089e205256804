"""Scans that hold none of the labels, as training cases: a network has to learn what it must leave alone."""

from tomoseg.bundle.configs import Json, component
from tomoseg.bundle.planned import TrainEntry
from tomoseg.data.datasets import LABEL_ENDINGS
from tomoseg.planning.data_config import KEYS, SUFFIXES
from tomoseg.planning.rules import TrainingPlan

NEGATIVE_WINDOWS_SHARE = 0.125  # of the windows


def negative_entries() -> Json:
    """Return the entries of train.json that list them; none without `negatives_dir`."""
    labels = tuple(ending + suffix for ending in LABEL_ENDINGS for suffix in SUFFIXES)
    fields = "'image': os.path.join(@negatives_dir, f), 'label': os.path.join(@negatives_dir, f), 'negative': True"
    return {
        TrainEntry.NEGATIVES_FOLDER: None,
        "negative_share": NEGATIVE_WINDOWS_SHARE,
        "negatives": f"$[{{{fields}}} for f in sorted(os.listdir(@negatives_dir)) if f.endswith({SUFFIXES}) "
        f"and not f.endswith({labels}) and not f.startswith('.')] if @negatives_dir else []",
    }


def without_labels() -> Json:
    """Return the transform that makes a label map of zeros of the scan that was read in its place."""
    return component(
        "Lambda",
        func="$lambda data: {**data, @label_key: torch.zeros_like(data[@label_key])} if data.get('negative') else data",
    )


def sampler() -> str:
    """Return what draws the cases: each as often as the others, negatives for their share of the windows."""
    arguments = "num_samples=@steps * @batch_size, generator=torch.Generator().manual_seed(@seed)"
    cases = "(len(@train::dataset) - len(@negatives))"
    return (
        f"$torch.utils.data.WeightedRandomSampler([(1 - @negative_share) / {cases}] * {cases} + "
        f"[@negative_share / len(@negatives)] * len(@negatives), {arguments}) if @negatives else "
        f"torch.utils.data.RandomSampler(@train::dataset, {arguments})"
    )


def cut_out(plan: TrainingPlan) -> list[Json]:
    """Return what takes a part of a negative, where the cases themselves are no larger than a crop."""
    if plan.cut:
        return []
    return [component("RandSpatialCropd", keys=KEYS, roi_size="@crop_size", random_size=False)]

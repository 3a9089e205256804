"""The config of a planned bundle that trains it: train.json."""

from tomoseg.bundle.configs import Json, component
from tomoseg.data.datasets import LABEL_ENDINGS
from tomoseg.planning import data_config
from tomoseg.planning.augmentation import labelled_augmentation
from tomoseg.planning.data_config import KEYS, SUFFIXES
from tomoseg.planning.layout import Layout
from tomoseg.planning.loss_config import loss_entries
from tomoseg.planning.rules import FOLDS, TrainingPlan
from tomoseg.planning.template import render_config

MAX_CENTRES_PER_LABEL = 10_000  # voxels of each label from which the middle of a crop is drawn


def train_config(plan: TrainingPlan, layout: Layout, name: str, dataset: str) -> Json:
    """Return train.json.

    Args:
        plan: what was decided.
        layout: how the dataset's files are named.
        name: of the bundle's folder.
        dataset: name of the dataset's folder.
    """
    validation = [*data_config.pad(plan, KEYS, "@patch_size"), *data_config.forget_ignored(plan, "@label_key")]
    return render_config(
        "train",
        plan=plan,
        layout=layout,
        max_folds=FOLDS,
        name=name,
        dataset=dataset,
        suffixes=SUFFIXES,
        label_suffixes=tuple(ending + suffix for ending in LABEL_ENDINGS for suffix in SUFFIXES),
        loss_entries=loss_entries(plan),
        deterministic=_deterministic(plan),
        cached=_cached(plan),
        augmentation=labelled_augmentation(plan),
        validation=validation,
        inferer=data_config.inferer(plan, "@patch_size"),
        prediction_and_label=data_config.prediction_and_label(plan, "@label_key"),
        dice_of_each=data_config.dice_of_each(plan, "@label_key"),
    )


def _deterministic(plan: TrainingPlan) -> list[Json]:
    """Return what is done once a case, in training and in validation."""
    blank = "{**data, @label_key: torch.zeros_like(data[@label_key])}"  # of a negative, the scan itself was read twice
    return [
        *data_config.load(plan, KEYS),
        component("Lambda", func=f"$lambda data: {blank} if data.get('negative') else data"),
        *data_config.spatial(plan, KEYS),
        *data_config.label_values(plan, "@label_key"),
        data_config.intensities(plan, "@image_key"),
        component("EnsureTyped", keys=KEYS, dtype=["$torch.float32", _label_type(plan)], track_meta=False),
        *data_config.drawn_only(plan, "@label_key"),
    ]


def _label_type(plan: TrainingPlan) -> str:
    """Return what holds the rows of `possible`, of which there is one for each set of labels that were drawn."""
    if plan.masked:
        return "$torch.uint8 if len(@possible) < 256 else torch.int16"
    return "$torch.uint8" if plan.network.out_channels < 256 else "$torch.int16"


def _cached(plan: TrainingPlan) -> list[Json]:
    """Return what is done once a case, in training only."""
    scores = plan.network.out_channels
    places = component(
        "ClassesToIndicesd", keys="@label_key", num_classes=scores, max_samples_per_class=MAX_CENTRES_PER_LABEL
    )
    undrawn = data_config.change(
        f"@label_key: torch.where(data[@label_key] == 0, {scores + 1} + "
        "data.get('drawn', @all_drawn), data[@label_key])"
    )
    return [
        *data_config.pad(plan, KEYS, "@crop_size"),
        *([places] if plan.cut else []),
        *([undrawn] if plan.partial else []),
        component("EnsureTyped", keys=KEYS, device="@cache_device", track_meta=False),
    ]

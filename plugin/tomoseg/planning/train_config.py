"""The config of a planned bundle that trains it: train.json."""

from tomoseg.bundle.configs import Json, component
from tomoseg.data.datasets import LABEL_ENDINGS
from tomoseg.planning import data_config, synthesis_config
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
        plan: the decisions.
        layout: how the dataset's files are named.
        name: of the bundle's folder.
        dataset: name of the dataset's folder.
    """
    drawing = plan.drawing
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
        augmentation=labelled_augmentation(plan) if drawing is None else synthesis_config.drawn_or_real(plan, drawing),
        generator=None if drawing is None else synthesis_config.generator(plan, drawing),
        validation=validation if drawing is None else synthesis_config.validation(plan, drawing, validation),
        inferer=data_config.inferer(plan, "@patch_size"),
        prediction_and_label=data_config.prediction_and_label(plan, "@label_key"),
        dice_of_each=data_config.dice_of_each(plan, "@label_key"),
    )


def _deterministic(plan: TrainingPlan) -> list[Json]:
    """Return the transforms that run once a case, in training and in validation."""
    if plan.drawing is not None and not plan.drawing.scans:
        return synthesis_config.load_label_map(plan)
    orientation, spacing = data_config.spatial(plan, KEYS)
    blank = "{**data, @label_key: torch.zeros_like(data[@label_key])}"  # of a negative, the scan itself was read twice
    return [
        *data_config.load(plan, KEYS),
        component("Lambda", func=f"$lambda data: {blank} if data.get('negative') else data"),
        orientation,
        *([] if plan.drawing is None else synthesis_config.keep_tissues()),
        spacing,
        *data_config.label_values(plan, "@label_key"),
        data_config.intensities(plan, "@image_key"),
        component("EnsureTyped", keys=KEYS, dtype=["$torch.float32", data_config.label_type(plan)], track_meta=False),
        *data_config.drawn_only(plan, "@label_key"),
    ]


def _cached(plan: TrainingPlan) -> list[Json]:
    """Return the transforms that run once a case, in training only."""
    if plan.drawing is not None and plan.drawing.share == 1:
        return [component("SelectItemsd", keys=synthesis_config.TISSUES)]
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

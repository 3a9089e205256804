"""The configs of a planned bundle that run its weights: inference.json and evaluate.json."""

from tomoseg.bundle.configs import Json, component
from tomoseg.planning import data_config
from tomoseg.planning.layout import Layout
from tomoseg.planning.rules import FOLDS, TrainingPlan
from tomoseg.planning.template import render_config


def inference_config(plan: TrainingPlan, layout: Layout, name: str, dataset: str) -> Json:
    """Return inference.json.

    Args:
        plan: the decisions.
        layout: how the dataset's files are named.
        name: of the bundle's folder.
        dataset: name of the dataset's folder.
    """
    return render_config(
        "inference",
        network=plan.network.config(supervised=False),
        mirror_axes=plan.mirror_axes,
        decide=[component("AsDiscreted", keys="pred", argmax=True)],
        name=name,
        dataset=dataset,
        datalist=data_config.scans_to_segment(layout),
        preprocessing=data_config.scan(plan, "image"),
        inferer=data_config.inferer(plan, list(plan.patch)),
    )


def evaluate_config(plan: TrainingPlan, layout: Layout, name: str, dataset: str) -> Json:
    """Return evaluate.json; the arguments are those of `inference_config`."""
    preprocessing = [
        *data_config.load(plan, ["image", "label"]),
        *data_config.spatial(plan, ["image"]),
        data_config.intensities(plan, "image"),
        *data_config.label_values(plan, "label"),
        *data_config.drawn_only(plan, "'label'"),
        *data_config.forget_ignored(plan, "'label'"),
    ]
    return render_config(
        "evaluate",
        plan=plan,
        layout=layout,
        max_folds=FOLDS,
        name=name,
        dataset=dataset,
        preprocessing=preprocessing,
        inferer=data_config.inferer(plan, list(plan.patch)),
        prediction_and_label=data_config.prediction_and_label(plan, "label"),
        dice_of_each=data_config.dice_of_each(plan, "'label'"),
    )

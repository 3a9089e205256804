"""The loss of a planned bundle's training: on every level, over what each voxel may be."""

from itertools import accumulate

from tomoseg.bundle.configs import Json
from tomoseg.planning.network import triple
from tomoseg.planning.rules import TrainingPlan
from tomoseg.planning.template import render_config


def loss_entries(plan: TrainingPlan) -> Json:
    """Return the entries of train.json from `label` and the network's levels to one number."""
    strides = plan.network.strides[1 : plan.network.heads + 1]
    steps = accumulate(
        strides,
        lambda before, by: triple(edge * factor for edge, factor in zip(before, by, strict=True)),
        initial=(1, 1, 1),
    )
    return render_config("loss", plan=plan, strides=strides, steps=list(steps))

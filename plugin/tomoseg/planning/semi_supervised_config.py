"""The config of a planned bundle that goes over train.json where most scans have no label map: semi_supervised.json.

A mean teacher (Tarvainen and Valpola, NeurIPS 2017): the moving average of the network that train.json keeps labels
scans without label map, and the network learns from its labels as from those of people, by the loss of train.json. Both
see the scan in the same place, turned and mirrored alike, but only the network that learns sees it with its values
changed (FixMatch; Sohn et al., NeurIPS 2020). The squared difference of their scores, as of UA-MT (Yu et al., MICCAI
2019), came to 2 % of that loss, and the network to less than without.
"""

from tomoseg.bundle.configs import Json, component
from tomoseg.data.formats import VOLUME_SUFFIXES
from tomoseg.planning import data_config
from tomoseg.planning.augmentation import unlabelled_augmentation
from tomoseg.planning.rules import TrainingPlan
from tomoseg.planning.template import render_config

IMAGE, STUDENT = "@image_key", "student"


def semi_supervised_config(plan: TrainingPlan) -> Json:
    """Return semi_supervised.json, which goes over train.json.

    Args:
        plan: the decisions.
    """
    preprocessing = [
        *data_config.scan(plan, IMAGE),
        *data_config.pad(plan, [IMAGE], "@crop_size"),
        component("EnsureTyped", keys=IMAGE, dtype="$torch.float32", device="@cache_device", track_meta=False),
        *unlabelled_augmentation(plan, IMAGE, STUDENT),
    ]
    return render_config("semi_supervised", suffixes=VOLUME_SUFFIXES, preprocessing=preprocessing, student=STUDENT)

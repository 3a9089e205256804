"""What train.json says of images that are drawn from label maps, by `tomoseg.transforms.RandImageFromLabelsd`."""

from typing import Any

from tomoseg.bundle.configs import Json, component
from tomoseg.planning import data_config
from tomoseg.planning.augmentation import labelled_augmentation
from tomoseg.planning.data_config import KEYS
from tomoseg.planning.rules import TrainingPlan
from tomoseg.planning.synthesis import Drawing

TISSUES = "tissues"  # key of the label map with the dataset's values, in its own voxels
# of its own for each case, so that all validations see the same images
FIXED = (
    "$lambda data: copy.deepcopy(@generator).set_random_state("
    f"zlib.crc32(os.path.basename(data['{TISSUES}'].meta['filename_or_obj']).encode()) ^ @seed)(data)"
)


def generator(plan: TrainingPlan, drawing: Drawing) -> Json:
    """Return the transform that draws image and label map of a window."""
    classes = dict(zip(plan.sources, plan.labels, strict=True))
    if plan.ignored is not None:
        classes[plan.ignored] = plan.network.out_channels
    return component(
        "tomoseg.transforms.RandImageFromLabelsd",
        keys=TISSUES,
        image_key="@image_key",
        classes={str(value): label for value, label in classes.items()},
        pairs=[list(pair) for pair in drawing.pairs],
        mirror_prob=drawing.mirror_prob,
        spatial_size="@patch_size",
        pixdim=list(plan.spacing_mm),
        translation=[[-mm for mm in drawing.translation_mm], list(drawing.translation_mm)],
    )


def load_label_map(plan: TrainingPlan) -> list[Json]:
    """Return what reads a label map that has no scan."""
    orientation, _ = data_config.spatial(plan, KEYS[1:])
    return [*data_config.load(plan, KEYS[1:]), orientation, *keep_tissues()]


def keep_tissues() -> list[Json]:
    """Return what copies a label map before its voxels and values become the network's."""
    return [
        component("CopyItemsd", keys=KEYS[1], names=TISSUES),
        component("EnsureTyped", keys=TISSUES, dtype="$torch.int16"),
    ]


def drawn_or_real(plan: TrainingPlan, drawing: Drawing) -> list[Json]:
    """Return what makes a training sample: drawn, or for a share of them cut from the scan and augmented."""
    drawn = _drawn(plan, "@generator")
    if drawing.share < 1:
        choices = [component("Compose", transforms=steps) for steps in (drawn, labelled_augmentation(plan))]
        weights = "$[@synthetic_share, 1 - @synthetic_share]"
        drawn = [component("OneOf", transforms=choices, weights=weights)]
    return [*drawn, _typed(plan, device="@cache_device")]


def validation(plan: TrainingPlan, drawing: Drawing, real: list[Json]) -> list[Json]:
    """Return what follows the steps that training and validation share.

    Args:
        plan: the decisions.
        drawing: how images are drawn.
        real: what follows them for a scan.
    """
    if drawing.scans:
        return [component("DeleteItemsd", keys=TISSUES), *real]
    drawn = _drawn(plan, component("Lambda", func=FIXED))
    return [*drawn, _typed(plan), *data_config.forget_ignored(plan, KEYS[1])]


def _drawn(plan: TrainingPlan, draw: Any) -> list[Any]:
    labelled = data_config.change(f"{KEYS[1]}: data['{TISSUES}']")
    return [draw, labelled, data_config.intensities(plan, KEYS[0]), component("SelectItemsd", keys=KEYS)]


def _typed(plan: TrainingPlan, **options: Any) -> Json:
    types = ["$torch.float32", data_config.label_type(plan)]
    return component("EnsureTyped", keys=KEYS, dtype=types, track_meta=False, **options)

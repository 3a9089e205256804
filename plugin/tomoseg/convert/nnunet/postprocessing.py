"""nnU-Net's record of the post-processing that helped, as MONAI's transforms."""

from pathlib import Path

from tomoseg.bundle.configs import Json, component
from tomoseg.bundle.ensemble import KEEP_LARGEST
from tomoseg.convert.nnunet.entry import Entry, read_entry
from tomoseg.convert.nnunet.labels import MAX_LABELS

FUNCTION = "remove_all_but_largest_component_from_segmentation"


def postprocessing_steps(path: Path) -> list[Json]:
    """Return the steps that follow the label map, from postprocessing.json.

    Args:
        path: the file.

    Raises:
        BundleError: it cannot be read, or names another function than nnU-Net's own.
    """
    record = read_entry(path)
    functions = record["postprocessing_fns"].elements()
    arguments = record["postprocessing_kwargs"].elements(len(functions))
    for function in functions:
        function.choice({FUNCTION: FUNCTION})
    return [
        component(KEEP_LARGEST, keys="pred", applied_labels=_labels(entry["labels_or_regions"]), independent=False)
        for entry in arguments
    ]


def _labels(entry: Entry) -> list[int]:
    """Return the labels that together have one largest component: a label, a region, or a list of these."""
    if isinstance(entry.value, list):
        return sorted({label for element in entry.elements() for label in _labels(element)})
    return [entry.whole(1, MAX_LABELS)]

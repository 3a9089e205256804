"""Clicks as MONAI Label's clients send them."""

from collections.abc import Mapping
from typing import Any

from tomoseg.core.errors import UsageError
from tomoseg.label_app.clicks.correction import Click
from tomoseg.label_app.served_labels import ServedLabels

BACKGROUND = "background"
FOREGROUND = "foreground"


def parse_clicks(request: Mapping[str, Any], labels: ServedLabels) -> list[Click]:
    """Return the clicks of a request, with the served numbers of the labels.

    Clients of "deepedit" models send a list of voxels for each label by its name, and one for `background`; those of
    "deepgrow" models `foreground` and `background`, and the name of the label in `label`.

    Raises:
        UsageError: a click is no voxel, or it is not said which label `foreground` is.
    """
    clicks: list[Click] = []
    for name, value in labels.ids.items():
        clicks += [Click(voxel, value) for voxel in _voxels(request, name)]
    if foreground := _voxels(request, FOREGROUND):
        label = str(request.get("label") or "").lower()
        if label not in labels.ids:
            raise UsageError(
                f"label: expected one of {', '.join(labels.ids)} for the clicks on foreground, got {label!r}"
            )
        clicks += [Click(voxel, labels.ids[label]) for voxel in foreground]
    # the last of two at one voxel counts; who takes something away wants to see it gone
    return clicks + [Click(voxel, 0) for voxel in _voxels(request, BACKGROUND)]


def _voxels(request: Mapping[str, Any], name: str) -> list[tuple[int, int, int]]:
    points = request.get(name)
    try:
        return [(int(i), int(j), int(k)) for i, j, k in points or ()]
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: expected a list of voxels [i, j, k], got {points!r}") from error

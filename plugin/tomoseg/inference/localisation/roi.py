"""Places that are given by hand, as `--roi` has them."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tomoseg.bundle.options import WHOLE
from tomoseg.core.errors import UsageError
from tomoseg.inference.localisation.declaration import Localisation

Corners = tuple[NDArray[np.float64], NDArray[np.float64]]  # first and last corner, RAS+ mm


def parse_rois(texts: Sequence[str], localisation: Localisation | None, bundle: str) -> dict[str, Corners] | None:
    """Return the box of each region that was given by hand, by its name; None for the whole scan.

    Args:
        texts: "whole", or for each region "NAME=X,Y,Z" with the centre of its box, or "NAME=X,Y,Z,X,Y,Z" with two
            corners; RAS+ mm of the scan. The beginning of a name is enough.
        localisation: what the bundle declares.
        bundle: its name.

    Raises:
        UsageError: they are nothing of the kind, or the bundle declares no regions.
    """
    if list(texts) == [WHOLE]:
        return None
    if localisation is None:
        raise UsageError(f"roi: bundle {bundle} declares no regions that could be placed; crop the scan first")
    names = [region.name for region in localisation.regions]
    sizes = {region.name: np.subtract(region.box_mm[1], region.box_mm[0]) for region in localisation.regions}
    boxes: dict[str, Corners] = {}
    for text in texts:
        name, _, numbers = text.rpartition("=")
        found = [known for known in names if name and known.startswith(name)]
        values = [float(number) for number in numbers.split(",") if re.fullmatch(r"\s*[-+]?\d+(\.\d+)?\s*", number)]
        if len(found) != 1 or len(values) != numbers.count(",") + 1 or len(values) not in (3, 6) or found[0] in boxes:
            raise UsageError(
                f"roi: expected {WHOLE}, or once for each of {', '.join(names)} its centre or two corners in mm, e.g. "
                f"{names[0].split()[0]}=-26,-22,-10, got {text!r}"
            )
        first, last = np.array(values[:3]), np.array(values[-3:])
        if len(values) == 3:
            first, last = first - sizes[found[0]] / 2, last + sizes[found[0]] / 2
        boxes[found[0]] = (np.minimum(first, last), np.maximum(first, last))
        if (boxes[found[0]][1] - boxes[found[0]][0] < localisation.spacing_mm).any():
            raise UsageError(f"roi: expected two corners of a box, got {text!r}")
    return boxes

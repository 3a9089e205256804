"""What the labels of a planned bundle mean to other systems: codes, colours, names for radiotherapy."""

import colorsys
from collections.abc import Sequence
from dataclasses import asdict

from tomoseg.bundle.configs import Json
from tomoseg.data.labels import default_hue, split_side
from tomoseg.planning.anatomy import LATERALITY, recognise
from tomoseg.planning.fingerprint import LabelPrint

# of the 5th and of the 95th percentile of the volumes that were drawn, what lies beyond which is implausible; clinical
# contours are often drawn in part, and sometimes much too large
SMALLER, LARGER = 0.5, 1.5
# saturation and value of what has no side, and of the two that differ in nothing else
PLAIN, RIGHT, LEFT = (0.75, 0.95), (0.55, 1.0), (0.9, 0.65)


def label_table(labels: Sequence[LabelPrint]) -> Json:
    """Return the `label_table` of metadata.json; a label that nothing is known of has no entry.

    Args:
        labels: in the order of their values in the bundle, by the names that the dataset has.
    """
    colours = _colours([label.name for label in labels])
    entries = (_entry(label, colour) for label, colour in zip(labels, colours, strict=True))
    return {str(value): entry for value, entry in enumerate(entries, start=1) if entry}


def _entry(label: LabelPrint, colour: list[int] | None) -> Json:
    entry: Json = {} if colour is None else {"color": colour}
    known = recognise(label.name)
    if known is not None:
        entry |= {"category": asdict(known.category), "type": asdict(known.code)}
        if known.side is not None:
            entry["laterality"] = asdict(LATERALITY[known.side])
        if known.roi_name is not None:
            entry["roi_name"] = known.roi_name
    if label.low_ml is not None and label.high_ml is not None:
        entry["volume_ml"] = [float(f"{label.low_ml * SMALLER:.3g}"), float(f"{label.high_ml * LARGER:.3g}")]
    return entry


def _colours(names: list[str]) -> list[list[int] | None]:
    """Return a hue for each label and one for each pair, whose right is lighter; None where no pair is: the default."""
    parts = [split_side(name) for name in names]
    groups = list(dict.fromkeys(words for words, _ in parts))
    if len(groups) == len(parts):
        return [None] * len(names)
    colours: list[list[int] | None] = []
    for words, sides in parts:
        paired = sum(words == others for others, _ in parts) == 2 and len(sides) == 1
        saturation, value = (RIGHT if "right" in sides else LEFT) if paired else PLAIN
        red, green, blue = colorsys.hsv_to_rgb(default_hue(groups.index(words) + 1), saturation, value)
        colours.append([round(red * 255), round(green * 255), round(blue * 255)])
    return colours

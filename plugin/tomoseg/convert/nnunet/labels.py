"""What nnU-Net's dataset.json says of a model: labels or regions, channels, where the data come from."""

from dataclasses import dataclass

from tomoseg.convert.nnunet.entry import Entry
from tomoseg.core.errors import BundleError
from tomoseg.data.labels import IGNORE

MAX_LABELS = 1000
BACKGROUND = "background"


@dataclass(frozen=True)
class ModelLabels:
    """The labels of a model.

    Attributes:
        names: of the label map's values, background left out.
        heads: number of the network's outputs: labels with background, or regions.
        region_values: value of each region, where outputs are regions that contain each other; a later one wins.
    """

    names: dict[int, str]
    heads: int
    region_values: tuple[int, ...] | None


def read_labels(dataset: Entry) -> ModelLabels:
    """Return the labels of dataset.json.

    Raises:
        BundleError: they are missing, or contradict each other.
    """
    entries = dataset["labels"].items()
    if BACKGROUND not in entries or entries[BACKGROUND].whole(0, 0):
        raise dataset["labels"].error(f"{BACKGROUND!r} with the value 0")
    parts = {name: _values(entry) for name, entry in entries.items() if name not in (BACKGROUND, IGNORE)}
    if not parts:
        raise dataset["labels"].error("labels besides the background")
    if all(len(values) == 1 for values in parts.values()):
        names = {values[0]: name for name, values in parts.items()}
        if sorted(names) != list(range(1, len(parts) + 1)):
            raise dataset["labels"].error("values without gaps")
        return ModelLabels(dict(sorted(names.items())), len(parts) + 1, None)
    order = tuple(entry.whole(1, MAX_LABELS) for entry in dataset["regions_class_order"].elements(len(parts)))
    if len(set(order)) < len(order):
        raise dataset["regions_class_order"].error("a value of its own for each region")
    return ModelLabels(_region_names(parts, order), len(parts), order)


def _values(entry: Entry) -> tuple[int, ...]:
    if isinstance(entry.value, list):
        return tuple(element.whole(0, MAX_LABELS) for element in entry.elements())
    return (entry.whole(1, MAX_LABELS),)


def _region_names(parts: dict[str, tuple[int, ...]], order: tuple[int, ...]) -> dict[int, str]:
    """Name the values of the label map: what a later region takes from an earlier one is said in its name."""
    names = {}
    for index, (name, values) in enumerate(parts.items()):
        later = [(other, set(taken)) for other, taken in list(parts.items())[index + 1 :] if set(taken) & set(values)]
        # one that lies within another of them needs no mention
        taken_by = [other for other, taken in later if not any(taken < larger for _, larger in later)]
        names[order[index]] = " without ".join([name, " and ".join(taken_by)]) if taken_by else name
    return names


def read_channels(dataset: Entry, count: int) -> list[str]:
    """Return the names of the scan's channels.

    Raises:
        BundleError: their number is another one than the plans say.
    """
    entries = dataset["channel_names" if "channel_names" in dataset else "modality"].items()
    if sorted(entries) != sorted(map(str, range(count))):
        raise BundleError(
            f"{dataset.where}: has the channels {', '.join(entries)}, but the plans normalise {count}. "
            "Give the files of one model"
        )
    return [entries[str(index)].text() for index in range(count)]

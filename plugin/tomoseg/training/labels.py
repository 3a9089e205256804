"""Which label of a dataset is which label of the dataset that a bundle was planned for."""

from collections.abc import Mapping
from dataclasses import replace

from tomoseg.bundle.planned import PlannedBundle
from tomoseg.core.errors import DatasetError, UsageError
from tomoseg.core.notes import take_note
from tomoseg.data.datasets import Dataset
from tomoseg.data.inspection.training_checks import trainable_labels
from tomoseg.data.label_mapping import LabelMapping
from tomoseg.data.label_names import parse_labels
from tomoseg.data.labels import find_ignored, same_name


def match_labels(dataset: Dataset, planned: PlannedBundle | None, asked: str | None = None) -> Dataset:
    """Return a dataset with the values that its labels have in the bundle's own dataset.

    Args:
        dataset: a sound one, see `require_trainable`.
        planned: what the bundle records of its dataset; without it, labels keep their values.
        asked: "VALUE=NAME,…" or a file, where the names of the dataset are not those of the bundle.

    Raises:
        DatasetError: labels differ, with both tables: by value, one structure would be learnt under another's name.
        UsageError: `asked` is no such table, or the bundle has no record.
    """
    ours = _planned_labels(planned)
    if planned is None or not ours:
        if asked is not None:
            raise UsageError("map labels: the bundle has no record of its labels. Leave out --map-labels")
        return dataset
    theirs = trainable_labels(dataset)
    values = {same_name(name): value for value, names in ours.items() for name in names}
    named = theirs if asked is None else parse_labels(asked, "map labels")
    matched = {value: values.get(same_name(name)) for value, name in named.items()}
    if asked is None and all(name == f"label_{value}" for value, name in theirs.items()):  # nothing names them
        matched = {value: value for value in theirs}
    if not (matched.keys() <= theirs.keys() and {*matched.values()} == ours.keys() and len(matched) == len(ours)):
        expected = _table({value: names[-1] for value, names in ours.items()})
        raise DatasetError(
            f"{dataset.root}: expected the labels that the bundle was planned for ({expected}), got {_table(theirs)}. "
            "Give them these names, which `tomoseg train --map-labels VALUE=NAME,…` does too, or plan a bundle"
        )
    others = ((value, matched.get(value) or 0) for value in theirs)  # unnamed values are background
    changed = {value: other for value, other in others if value != other}
    if changed:
        shown = ", ".join(f"{value} ({theirs[value]}) as {other or 'background'}" for value, other in changed.items())
        take_note(f"{dataset.root}: labels have other values than those that the bundle was planned for: {shown}")
    ignored = find_ignored(dataset.label_names)
    partial = any(pair.annotated is not None and {*theirs.values()} - {*pair.annotated} for pair in dataset.pairs)
    if (partial and not planned.fingerprint.get("partial")) or (ignored is not None and planned.ignored is None):
        raise DatasetError(
            f"{dataset.root}: expected completely drawn label maps, as the bundle was planned for, got some whose rest "
            "is not known ('annotated', or the label 'ignore'). Plan a bundle for this dataset"
        )
    if ignored is not None and planned.ignored not in (None, ignored):
        changed[ignored] = planned.ignored
    return replace(dataset, renumbered=LabelMapping(changed))


def _planned_labels(planned: PlannedBundle | None) -> dict[int, tuple[str, str]]:
    """Return the names of each label in the dataset and in the bundle, by its value in the dataset."""
    try:
        labels = planned.dataset_labels.items() if planned else ()
        return {int(value): (str(names["dataset"]), str(names["bundle"])) for value, names in labels}
    except (AttributeError, KeyError, TypeError, ValueError):  # a damaged record
        return {}


def _table(labels: Mapping[int, str]) -> str:
    return ", ".join(f"{value}={name}" for value, name in sorted(labels.items()))

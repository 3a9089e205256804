"""Labels as MONAI Label's clients expect them: numbers 1, 2, … without gaps, and names in lower case.

A bundle that was trained on crops gives whole scans other labels, which say left or right, too. Those are served as the
bundle's own: clients know one list of labels for each model, and corrections and trainings use the bundle's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tomoseg.bundle.metadata import Bundle
from tomoseg.core.errors import BundleError, UsageError, errors_as
from tomoseg.data.label_mapping import LabelMapping
from tomoseg.data.labels import Label, require_distinct, same_name
from tomoseg.inference.localisation.declaration import read_localisation
from tomoseg.inference.segmentation import Segmentation


@dataclass(frozen=True)
class ServedLabels:
    """The labels of one bundle.

    Attributes:
        table: served labels, numbered 1, 2, … in the order of the bundle's values.
        values: their values in a `Segmentation` of the bundle, in the same order.
        overlapping: whether a voxel may have several.
        whole: the labels of a whole scan, each with which of `values` it is; none for a bundle that takes all scans as
            they are.
    """

    table: tuple[Label, ...]
    values: tuple[int, ...]
    overlapping: bool
    whole: tuple[tuple[Label, int], ...] = ()

    @classmethod
    def of(cls, bundle: Bundle) -> ServedLabels:
        """Return the labels of a bundle, background left out.

        Raises:
            BundleError: its label table or localisation is damaged, or two of its labels have one name.
        """
        channels = bundle.label_table
        if 0 in channels and channels[0].name.lower() == "background":
            channels.pop(0)
        overlapping = 0 in channels  # a threshold of each score, and no background among them
        with errors_as(BundleError, bundle.name, UsageError):
            require_distinct(label.name for label in channels.values())
        ordered = sorted(channels.items())
        table = tuple(replace(label, value=n, name=label.name.lower()) for n, (_, label) in enumerate(ordered, 1))
        values = tuple(value + overlapping for value, _ in ordered)  # a Segmentation numbers them from 1 on
        return cls(table, values, overlapping, _whole_labels(bundle))

    @property
    def ids(self) -> dict[str, int]:
        """Numbers by name."""
        return {label.name: label.value for label in self.table}

    @property
    def bundle_values(self) -> dict[str, int]:
        """The bundle's own values by the names that they may have in annotations, as `same_name` has them."""
        whole = {same_name(label.name): value for label, value in self.whole}
        return whole | {same_name(label.name): value for value, label in zip(self.values, self.table, strict=True)}

    @property
    def colours(self) -> dict[str, list[int]]:
        """Red, green and blue, 0 to 255, by name."""
        return {label.name: list(label.colour) for label in self.table}

    def serve(self, result: Segmentation) -> Segmentation:
        """Return a result with the served numbers; labels without a name in the metadata come last."""
        known = dict(zip(self.values, self.table, strict=True))
        if result.location is not None:
            known = {label.value: known[value] for label, value in self.whole if value in known}
        unknown = [label for label in result.label_table if label.value not in known]
        served = known | {label.value: replace(label, value=len(self.table) + n) for n, label in enumerate(unknown, 1)}
        if all(value == label.value for value, label in served.items()) or result.overlapping:
            labels = result.labels
        else:
            numbers = {value: label.value for value, label in served.items()}
            labels = LabelMapping(numbers, keep_others=False).apply(result.labels)
        table = {label.value: label for label in (*self.table, *served.values())}
        best_first = sorted(result.expected_dice.items(), key=lambda known: -known[1].dice)
        expected = {served[value].value: one for value, one in best_first if value in served}  # the worst of both sides
        label_table = tuple(label for _, label in sorted(table.items()))
        return replace(result, labels=labels, label_table=label_table, expected_dice=expected)


def _whole_labels(bundle: Bundle) -> tuple[tuple[Label, int], ...]:
    declared = read_localisation(bundle)
    if declared is None:
        return ()
    values = {merged: own for region in declared.regions for own, merged in region.labels.items()}
    return tuple((label, values[label.value]) for label in declared.label_table)

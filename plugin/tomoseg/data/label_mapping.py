"""What becomes of label values where two sides number the same labels in different ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoseg.data.labels import require_distinct, same_name


@dataclass(frozen=True)
class LabelMapping:
    """Mapping of label values.

    Attributes:
        values: what some become.
        keep_others: whether other values stay; else they become background.
    """

    values: Mapping[int, int] = field(default_factory=dict)
    keep_others: bool = True

    @classmethod
    def by_name(cls, theirs: Mapping[int, str], ours: Mapping[int, str]) -> LabelMapping:
        """Return how labels get the values of ours that have the same name; empty if they have them already.

        The comparison of names ignores case, and treats blanks and underscores as equal. A label of
        another name whose value is one of ours moves to a value that neither side uses.

        Args:
            theirs: names by value, as in the label maps to be mapped.
            ours: names by value.

        Raises:
            UsageError: two names of one side mean one label of the other.
        """
        values, others = ({same_name(name): value for value, name in side.items()} for side in (ours, theirs))
        known = {value: values[same_name(name)] for value, name in theirs.items() if same_name(name) in values}
        for side in (ours, theirs):
            require_distinct(name for name in side.values() if same_name(name) in values.keys() & others)
        if not known:
            return cls()
        changed = {value: label for value, label in known.items() if value != label}
        free = max(*theirs, *ours) + 1
        strangers = [value for value in theirs if value not in known and value in ours]
        return cls(changed | {value: free + index for index, value in enumerate(strangers)})

    def __bool__(self) -> bool:
        return bool(self.values)

    def value(self, value: int) -> int:
        """Return what one value becomes."""
        return self.values.get(value, value if self.keep_others else 0)

    def apply(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Return label values, each replaced by its new value.

        Args:
            labels: integers of any shape, 0 or more; or (label, I, J, K) of 0 and 1, where labels may overlap, numbered
                from 1.

        Returns:
            The same shape, with as many labels as needed; a larger type of integers where the values need it.
        """
        if labels.ndim == 4:
            numbers = [self.value(number) for number in range(1, len(labels) + 1)]
            layers = np.zeros((max(numbers), *labels.shape[1:]), labels.dtype)
            for number, layer in zip(numbers, labels, strict=True):
                if number:
                    layers[number - 1] |= layer
            return layers
        largest = max(int(labels.max(initial=0)), *self.values, *self.values.values(), 0)
        kind = np.result_type(labels.dtype, np.min_scalar_type(largest))
        table = np.arange(largest + 1, dtype=kind) if self.keep_others else np.zeros(largest + 1, kind)
        table[list(self.values)] = list(self.values.values())
        return np.asarray(table[labels])

"""Label values that become others: the same labels, numbered in another way."""

from __future__ import annotations

import numpy as np
import pytest

from tomoseg.data.label_mapping import LabelMapping

LABELS = np.array([0, 1, 2, 7], np.uint8)


@pytest.mark.parametrize(
    ("mapping", "mapped", "kind"),
    [
        (LabelMapping(), [0, 1, 2, 7], np.uint8),
        (LabelMapping((1, 2), (2, 1)), [0, 2, 1, 7], np.uint8),
        (LabelMapping((7, 9), (1, 2)), [0, 1, 2, 1], np.uint8),  # a value that does not occur
        (LabelMapping((7,), (300,)), [0, 1, 2, 300], np.uint16),
        (LabelMapping((2,), (1,), keep_others=False), [0, 0, 1, 0], np.uint8),
        (LabelMapping(keep_others=False), [0, 0, 0, 0], np.uint8),
    ],
)
def test_values_are_mapped(mapping: LabelMapping, mapped: list[int], kind: type) -> None:
    found = mapping.apply(LABELS.reshape(2, 2, 1))
    assert found.shape == (2, 2, 1)
    assert found.dtype == kind
    assert found.ravel().tolist() == mapped == [mapping.value(int(value)) for value in LABELS]


def test_nothing_is_mapped_in_an_empty_array() -> None:
    assert LabelMapping((1,), (2,)).apply(np.zeros((0, 3), np.uint8)).shape == (0, 3)


def test_an_empty_mapping_is_false() -> None:
    assert not LabelMapping.by_name({1: "Liver"}, {1: "liver"})
    assert LabelMapping.by_name({2: "Liver"}, {1: "liver"}).as_dict() == {2: 1}

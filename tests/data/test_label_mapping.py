"""Label values that become others: the same labels, numbered in another way."""

from __future__ import annotations

import numpy as np
import pytest

from tomoseg.core.errors import UsageError
from tomoseg.data.label_mapping import LabelMapping

LABELS = np.array([0, 1, 2, 7], np.uint8)


@pytest.mark.parametrize(
    ("mapping", "mapped", "kind"),
    [
        (LabelMapping(), [0, 1, 2, 7], np.uint8),
        (LabelMapping({1: 2, 2: 1}), [0, 2, 1, 7], np.uint8),
        (LabelMapping({7: 1, 9: 2}), [0, 1, 2, 1], np.uint8),  # a value that does not occur
        (LabelMapping({7: 300}), [0, 1, 2, 300], np.uint16),
        (LabelMapping({2: 1}, keep_others=False), [0, 0, 1, 0], np.uint8),
        (LabelMapping(keep_others=False), [0, 0, 0, 0], np.uint8),
    ],
)
def test_values_are_mapped(mapping: LabelMapping, mapped: list[int], kind: type) -> None:
    found = mapping.apply(LABELS.reshape(2, 2, 1))
    assert found.shape == (2, 2, 1)
    assert found.dtype == kind
    assert found.ravel().tolist() == mapped == [mapping.value(int(value)) for value in LABELS]


def test_nothing_is_mapped_in_an_empty_array() -> None:
    assert LabelMapping({1: 2}).apply(np.zeros((0, 3), np.uint8)).shape == (0, 3)


@pytest.mark.parametrize(
    ("theirs", "mapped"),
    [
        ("Right_Parotid", 5),
        ("right  parotid ", 5),
        ("GTV+", 6),
        ("gtv-", 7),
        ("海马前部", 8),
        ("海马后部", 9),
        ("Jambe coupe\u0301e", 10),
        ("parotid right", None),
        ("GTV", None),
        ("海马", None),
        ("label", None),
    ],
)
def test_names_are_compared_as_they_are(theirs: str, mapped: int | None) -> None:
    ours = {5: "right parotid", 6: "GTV+", 7: "GTV-", 8: "海马前部", 9: "海马后部", 10: "jambe coup\u00e9e"}
    expected = {} if mapped is None else {1: mapped}
    assert LabelMapping.by_name({1: theirs}, ours).values == expected


def test_the_same_table_on_both_sides_changes_nothing() -> None:
    table = {1: "GTV+", 2: "GTV-", 3: "海马前部", 4: "海马后部"}
    assert not LabelMapping.by_name(table, table)


@pytest.mark.parametrize(("ours", "theirs"), [((1, 2), (1,)), ((1,), (1, 2)), ((1, 2), (1, 2))])
def test_names_that_fall_together_are_an_error(ours: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    spelt = {1: "right parotid", 2: "Right_parotid"}
    with pytest.raises(UsageError, match="are one name"):
        LabelMapping.by_name({value: spelt[value] for value in theirs}, {value: spelt[value] for value in ours})
    other = {1: "spleen", 2: "spleen"}  # labels that ours do not have
    assert LabelMapping.by_name(other, {1: "liver"}) == LabelMapping()


def test_an_empty_mapping_is_false() -> None:
    assert not LabelMapping.by_name({1: "Liver"}, {1: "liver"})
    assert LabelMapping.by_name({2: "Liver"}, {1: "liver"}).values == {2: 1}

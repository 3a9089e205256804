"""Which labels lie as left and right do: mirroring a patient would swap them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tomoseg.planning.fingerprint import LabelPlace

CASES = 3  # that must have both labels: two may lie so by chance
AGREEING = 0.95  # of these cases
BESIDE = 2.0  # the way between the centres is at least so many times longer from left to right than along other axes
ALIKE = 2.0  # the larger volume is at most so many times the smaller


def find_opposite(cases: Sequence[Mapping[int, LabelPlace]]) -> tuple[tuple[int, int], ...]:
    """Return the pairs of labels that lie beside each other, always in the same order from left to right.

    Args:
        cases: where each label lies, by its value.
    """
    found = []
    for one, other in combinations(sorted({value for case in cases for value in case}), 2):
        both = [(case[one], case[other]) for case in cases if one in case and other in case]
        if len(both) < CASES:
            continue
        beside = [_direction(*pair) for pair in both]
        if max(beside.count(1), beside.count(-1)) >= AGREEING * len(both):
            found.append((one, other))
    return tuple(found)


def _direction(one: LabelPlace, other: LabelPlace) -> int:
    """Return 1 or -1 if the second label lies right or left of the first and is about as large, else 0."""
    x, y, z = (b - a for a, b in zip(one.centre_mm, other.centre_mm, strict=True))
    larger, smaller = max(one.volume_ml, other.volume_ml), min(one.volume_ml, other.volume_ml)
    if larger > ALIKE * smaller or abs(x) < BESIDE * max(abs(y), abs(z)):
        return 0
    return 1 if x > 0 else -1

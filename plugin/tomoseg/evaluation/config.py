"""Which labels are scored, and how."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tomoseg.core.errors import UsageError, shorten
from tomoseg.core.json_records import to_json
from tomoseg.data.datasets import read_description
from tomoseg.data.label_mapping import LabelMapping
from tomoseg.data.label_names import is_file
from tomoseg.data.labels import find_ignored, is_ignored, same_name, unnamed

DEFAULT_TOLERANCE_MM = 1.0
UNCHANGED = LabelMapping()
LENGTH = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(?:mm)?", re.IGNORECASE)


@dataclass(frozen=True)
class EvaluationConfig:
    """How label maps are compared.

    Attributes:
        names: of the labels that are scored, by value; empty for all that occur.
        tolerance_mm: within which surfaces count as equal.
        tolerances_mm: of single labels, by value.
        ignore: voxels of this value in a reference are not looked at.
        within_slices: values of labels that are scored between the first and the last slice of their reference only.
        reference_values: what values of a reference become, where a dataset numbers its labels otherwise.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    tolerance_mm: float = DEFAULT_TOLERANCE_MM
    tolerances_mm: Mapping[int, float] = field(default_factory=dict)
    ignore: int | None = None
    within_slices: frozenset[int] = frozenset()
    reference_values: LabelMapping = UNCHANGED

    def name(self, value: int) -> str:
        """Return the name of a label value."""
        return self.names.get(value) or unnamed(value).name

    def tolerance(self, value: int) -> float:
        """Return the tolerance in mm of a label."""
        return self.tolerances_mm.get(value, self.tolerance_mm)

    def as_json(self) -> Any:
        """Return the configuration as `evaluation.json` has it."""
        values = {"labels": self.names, **vars(self), "reference_values": self.reference_values.values}
        del values["names"]
        return to_json(values)


def make_protocol(
    names: Mapping[int, str],
    tolerances: Sequence[str] = (),
    ignore: int | None = None,
    within_slices: Iterable[str] = (),
    reference_values: LabelMapping = UNCHANGED,
) -> EvaluationConfig:
    """Return how to score labels, as a user says it.

    Args:
        names: of the labels by value; one that is called "ignore" is the value to ignore, if none is given.
        tolerances: each a length ("2mm") for all labels, "NAME=2mm" for one, or a JSON file of {"NAME": 2}.
        ignore: a value.
        within_slices: names or values of labels.
        reference_values: what values of a reference become.

    Raises:
        UsageError: there is no such label, or a tolerance is no length.
    """
    scored = {value: name for value, name in names.items() if not is_ignored(name)}
    ignore = find_ignored(names) if ignore is None else ignore
    if ignore is not None:
        scored.pop(ignore, None)
    lengths = dict(_read_tolerances(tolerances))
    general = lengths.pop(None, DEFAULT_TOLERANCE_MM)
    single = {_value_of(name, scored, "tolerance"): length for name, length in lengths.items() if name is not None}
    within = frozenset(_value_of(name, scored, "within slices") for name in within_slices)
    return EvaluationConfig(scored, general, single, ignore, within, reference_values)


def _read_tolerances(given: Sequence[str]) -> Iterable[tuple[str | None, float]]:
    for text in given:
        if is_file(text):
            yield from ((name, _length(str(length), name)) for name, length in read_description(Path(text)).items())
        else:
            name, equals, length = text.rpartition("=")
            yield (name.strip() if equals else None), _length(length, text)


def _length(text: str, shown: str) -> float:
    found = LENGTH.fullmatch(text.strip())
    if not found:
        raise UsageError(f"tolerance: expected a length in mm such as 1mm, or NAME=2mm, got {shorten(shown, 80)!r}")
    return float(found[1])


def _value_of(name: str, names: Mapping[int, str], what: str) -> int:
    """Return the value of a label by its name, or by itself."""
    values = [value for value, known in names.items() if same_name(known) == same_name(name)]
    if len(values) == 1:
        return values[0]
    if name.isdecimal() and int(name) > 0 and (int(name) in names or not names):
        return int(name)
    known = ", ".join(f"{name} ({value})" for value, name in names.items()) or "none is named. Give values"
    raise UsageError(f"{what}: no label {shorten(name, 80)!r}. Choose from: {known}")

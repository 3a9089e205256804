"""Values of a JSON file that a stranger wrote: each is checked before it is used."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tomoseg.core.errors import BundleError, errors_as, shorten
from tomoseg.core.json_files import load_json

SHOWN = 60  # characters of a value that is wrong
Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Entry:
    """A value and where it stands, which errors name.

    Attributes:
        value: as JSON has it.
        where: file and keys.
    """

    value: Any
    where: str

    def __contains__(self, key: str) -> bool:
        return isinstance(self.value, dict) and self.value.get(key) is not None

    def __getitem__(self, key: str) -> "Entry":
        if not isinstance(self.value, dict):
            raise self.error("an object")
        if key not in self.value:
            raise BundleError(f"{self.where}: lacks {key!r}. Give the file as nnU-Net wrote it")
        return Entry(self.value[key], f"{self.where}: {key}")

    def items(self) -> "dict[str, Entry]":
        """Return the entries of an object, in their order."""
        if not isinstance(self.value, dict):
            raise self.error("an object")
        return {key: self[key] for key in self.value}

    def elements(self, count: int | None = None) -> "list[Entry]":
        """Return the entries of a list."""
        if not isinstance(self.value, list) or count not in (None, len(self.value)):
            raise self.error("a list" if count is None else f"a list of {count}")
        return [Entry(value, f"{self.where}[{index}]") for index, value in enumerate(self.value)]

    def number(self, low: float = -math.inf, high: float = math.inf) -> float:
        """Return a finite number in [low, high]."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error("a number")
        if not low <= value <= high:
            raise self.error(f"{low:g} to {high:g}")
        return float(value)

    def whole(self, low: int, high: int) -> int:
        """Return a whole number in [low, high]."""
        if int(number := self.number(low, high)) != number:
            raise self.error("a whole number")
        return int(number)

    def text(self) -> str:
        """Return a text."""
        if not isinstance(self.value, str):
            raise self.error("a text")
        return self.value

    def flag(self) -> bool:
        """Return true or false."""
        if not isinstance(self.value, bool):
            raise self.error("true or false")
        return self.value

    def choice(self, choices: Mapping[str, Choice]) -> Choice:
        """Return what a text stands for."""
        if (text := self.text()) not in choices:
            raise self.error(f"one of {', '.join(choices)}")
        return choices[text]

    def error(self, expected: str) -> BundleError:
        """Return an error with the expected value."""
        return BundleError(f"{self.where}: expected {expected}, got {shorten(repr(self.value), SHOWN)}")


def read_entry(path: Path) -> Entry:
    """Read a JSON file.

    Raises:
        BundleError: it is missing, too large, or no JSON.
    """
    with errors_as(BundleError, f"{path}: cannot be read as JSON", OSError, ValueError):
        if not path.exists():
            raise BundleError(f"{path}: is missing. Give a results folder of nnU-Net that was trained")
        return Entry(load_json(path), str(path))

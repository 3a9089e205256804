"""Parameters and examples of tests, shared out over the tiers of `scripts/test`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest


def rest_exhaustive(values: Iterable[Any], kept: int = 1) -> list[Any]:
    """Return parameters: the first ones run in a test's own tier, the others with `scripts/test --all`."""
    return _marked(values, kept, pytest.mark.exhaustive)


def rest_slow(values: Iterable[Any], kept: int = 1) -> list[Any]:
    """Return parameters: the first ones run in the quick tier, the others with `scripts/test --slow`."""
    return _marked(values, kept, pytest.mark.slow)


def _marked(values: Iterable[Any], kept: int, mark: pytest.MarkDecorator) -> list[Any]:
    return [value if index < kept else pytest.param(value, marks=mark) for index, value in enumerate(values)]


def examples(count: int) -> int:
    """Return how many examples of a property to try: a quarter of them in the quick tier."""
    return count // 4 if hypothesis_profile() == "quick" else count


def hypothesis_profile() -> str:
    """Return the name of the profile that `scripts/test` chose for the tier."""
    return os.environ.get("HYPOTHESIS_PROFILE", "quick")

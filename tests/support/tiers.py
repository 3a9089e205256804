"""Parameters of tests, shared out over the tiers of `scripts/test`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def rest_exhaustive(values: Iterable[Any], kept: int = 1) -> list[Any]:
    """Return parameters: the first ones run in a test's own tier, the others with `scripts/test --all`."""
    return [
        value if index < kept else pytest.param(value, marks=pytest.mark.exhaustive)
        for index, value in enumerate(values)
    ]

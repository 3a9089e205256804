"""Which bundles may run in the tests: those that a test made, as if their user had said yes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.bundles import ENVIRONMENT
from tomoseg.bundle import trust

_asked = trust.is_trusted


@contextmanager
def own_data_folder(folder: Path) -> Iterator[None]:
    """Keep what tomoseg records out of the user's own data folder, in this process and in those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(folder))
        patch.setitem(ENVIRONMENT, "XDG_DATA_HOME", str(folder))
        yield


@contextmanager
def nothing_trusted(folder: Path) -> Iterator[None]:
    """Ask for every bundle again, with nothing recorded in the data folder.

    Args:
        folder: the data folder.
    """
    with own_data_folder(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(trust, "is_trusted", _asked)
        patch.setattr(trust, "_allowed", set())
        yield


@contextmanager
def all_trusted() -> Iterator[None]:
    """Say yes for every bundle, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trust, "is_trusted", lambda bundle: True)
        yield


def trust_named(words: tuple[object, ...], folder: Path | None) -> None:
    """Say yes for the bundles that a command line names by their folders."""
    for word in map(str, words):
        root = Path(folder or "", word)
        if os.sep in word and (root / "configs").is_dir():
            trust.record(root)

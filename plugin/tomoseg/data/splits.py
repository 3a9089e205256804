"""Which cases of a dataset each fold trains on and which it holds out, as a file beside them says."""

from pathlib import Path
from typing import Any

from tomoseg.core.errors import UsageError, errors_as, shorten, some
from tomoseg.core.json_files import load_json

SPLITS = ("splits.json", "splits_final.json")  # the second is nnU-Net's
LISTS = ("train", "val")
EXPECTED = '{"train": [NAME, …], "val": [NAME, …]}'


def read_splits(root: Path) -> list[dict[str, list[str]]]:
    """Return the names of the cases that each fold trains on and holds out; nothing where no file says.

    Args:
        root: folder of the dataset.

    Raises:
        UsageError: there are two such files, or one is damaged.
    """
    found = [root / name for name in SPLITS if (root / name).exists()]
    if not found:
        return []
    path = found[0]
    if len(found) > 1:
        raise UsageError(f"{path}: {found[1].name} lists folds, too. Keep one of them")
    with errors_as(UsageError, f"{path}: cannot be read as JSON", OSError, ValueError):
        folds: list[dict[str, list[str]]] = load_json(path)
    if not isinstance(folds, list) or not folds:
        raise UsageError(f"{path}: expected a list of folds, each {EXPECTED}, got {shorten(repr(folds), 80)}")
    for number, fold in enumerate(folds):
        lists: list[Any] = [fold.get(part) for part in LISTS] if isinstance(fold, dict) else [None]
        if not all(isinstance(names, list) and names and all(isinstance(one, str) for one in names) for names in lists):
            raise UsageError(f"{path}: fold {number}: expected {EXPECTED}, got {shorten(repr(fold), 80)}")
        if both := sorted({*lists[0]} & {*lists[1]}):
            raise UsageError(f"{path}: fold {number}: {some(both)} in train and in val. Choose one of them")
    return folds

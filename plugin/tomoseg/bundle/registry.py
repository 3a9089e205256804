"""Names of bundles and the folders they stand for.

The bundles that come with tomoseg are found beside the package (in an installation) or in the checkout; other packages
register theirs under the entry-point group `tomoseg.bundles`, each value a folder or a function that returns one.
"""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from tomoseg.bundle.metadata import Bundle
from tomoseg.core.errors import BundleError, one_line

ENTRY_POINT_GROUP = "tomoseg.bundles"


def registered_names() -> list[str]:
    """Return the names of all registered bundles, sorted; nothing of another package is imported for it."""
    return sorted({*_own_folders(), *_entry_points()})


def find_bundle(name_or_folder: str | os.PathLike[str]) -> Bundle:
    """Return the bundle with a registered name, with a name that starts so, or in a folder.

    Args:
        name_or_folder: a name, any unambiguous beginning of one, or the path of a bundle's folder.

    Raises:
        BundleError: there is none, or several names start so.
    """
    wanted = os.fspath(name_or_folder)
    names = registered_names()
    if wanted in names:
        return _load(wanted)
    # a path separator or a dot never occurs in the beginning of a name
    if os.sep in wanted or "/" in wanted or wanted.startswith(".") or Path(wanted, "configs").is_dir():
        return Bundle(name=Path(wanted).resolve().name, root=Path(wanted))
    candidates = [name for name in names if wanted and name.startswith(wanted)]
    if len(candidates) == 1:
        return _load(candidates[0])
    if candidates:
        raise BundleError(
            f"bundle {wanted!r}: expected one name, got the beginning of several: {', '.join(candidates)}"
        )
    raise BundleError(f"bundle {wanted!r}: no such name or folder; choose one of: {describe_all()}")


def describe_all() -> str:
    """Return one line that lists the registered bundles with modality and labels."""
    return "; ".join(_describe(name) for name in registered_names()) or "none is registered"


def _describe(name: str) -> str:
    try:
        bundle = _load(name)
        return f"{name} ({bundle.modality}: {', '.join(bundle.labels.values())})"
    except BundleError as error:
        return f"{name} (unusable: {one_line(error)})"


def _load(name: str) -> Bundle:
    own = _own_folders()
    if name in own:
        return Bundle(name=name, root=own[name])
    entry = _entry_points()[name]
    try:
        value = entry.load()
        folder = Path(value() if callable(value) else value)
    except Exception as error:  # the entry point of another package, which the error names
        distribution = entry.dist.name if entry.dist else "an unknown package"
        raise BundleError(
            f"bundle {name!r}: its entry point {entry.value!r} of {distribution} failed: {one_line(error)}"
        ) from error
    return Bundle(name=name, root=folder)


def _own_folders() -> dict[str, Path]:
    package = Path(__file__).parent.parent
    for home in (package / "_bundles", package.parent.parent / "monai_bundle"):
        if home.is_dir():
            return {folder.name: folder for folder in sorted(home.iterdir()) if (folder / "configs").is_dir()}
    return {}


def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}

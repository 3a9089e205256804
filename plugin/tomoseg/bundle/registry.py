"""Names of bundles and the folders they stand for.

The bundles that come with tomoseg are found beside the package (in an installation) or in the checkout; other packages
register theirs under the entry-point group `tomoseg.bundles`, each value a folder or a function that returns one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_data_path

from tomoseg.bundle.configs import CONFIG_SUFFIXES, SAFE_NAME
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.trust import record
from tomoseg.core.errors import BundleError, one_line
from tomoseg.core.files import real_path
from tomoseg.core.notes import print_note

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "tomoseg.bundles"


def registered_names() -> list[str]:
    """Return the names of all registered bundles, sorted; nothing of another package is imported for it.

    Returns:
        Those that come with tomoseg, that the user added, and that other packages declare as entry points
        "tomoseg.bundles".

    Example:
        >>> import tomoseg
        >>> tomoseg.registered_names()
        ['head_neck_ct_segmentation', 'hippocampus_mr_segmentation']
    """
    return sorted({*_own_folders(), *_entry_points(), *added_folders()})


def store_folder() -> Path:
    """Return the folder of the bundles that the user added."""
    return user_data_path("tomoseg") / "bundles"


def added_folders() -> dict[str, Path]:
    """Return the folders of the bundles that the user added, by name."""
    try:
        folders = sorted(store_folder().iterdir())
    except OSError:
        return {}
    return {one.name: one for one in folders if SAFE_NAME.fullmatch(one.name) and (one / "configs").is_dir()}


def find_bundle(name_or_folder: Bundle | str | os.PathLike[str], *, trust: bool = False) -> Bundle:
    """Return the bundle with a registered name, with a name that starts so, or in a folder.

    Args:
        name_or_folder: a name, any unambiguous beginning of one (those of tomoseg come first), or the folder of a
            bundle: a `Path`, or text with a separator, such as "./name"; or one of several inference configs in it,
            such as "./name/configs/inference_swinunetr.yaml"; a bundle is returned unchanged.
        trust: let the bundle's code run, now and later, until it changes. Bundles of tomoseg, of installed packages and
            those that tomoseg made on this computer need no such leave.

    Returns:
        The bundle; its config and weights are read only when they are needed.

    Raises:
        BundleError: there is none, or several names start so.

    Example:
        >>> import tomoseg
        >>> tomoseg.find_bundle("hippo").labels
        {1: 'anterior', 2: 'posterior'}
    """
    bundle = name_or_folder if isinstance(name_or_folder, Bundle) else _find(name_or_folder)
    if trust and not bundle.trusted:
        record(bundle.root)
    return bundle


def _find(name_or_folder: str | os.PathLike[str]) -> Bundle:
    wanted = os.fspath(name_or_folder)
    # a bundle is code: a folder that happens to lie here must not run in place of a registered one
    if not isinstance(name_or_folder, str) or "/" in wanted or os.sep in wanted or wanted in (".", ".."):
        root, config = Path(wanted), ""
        if root.suffix in CONFIG_SUFFIXES and root.parent.name == "configs" and root.is_file():
            root, config = root.parent.parent, root.name
        folder = real_path(root)
        return Bundle(folder.name, root, config=config, trusted=folder in map(real_path, _own_folders().values()))
    folder_here = bool(wanted) and Path(wanted, "configs").is_dir()
    name = _complete(wanted, f"; for the folder write ./{wanted}" if folder_here else "")
    if folder_here:
        print_note(f"bundle {wanted!r}: this is the registered {name}; for the folder write ./{wanted}")
    return _load(name)


def _complete(wanted: str, hint: str) -> str:
    """Return the registered name that is this or starts so; the hint ends the error where there is none."""
    names = registered_names()
    if wanted in names:
        return wanted
    candidates = [name for name in names if wanted and name.startswith(wanted)]
    candidates = [name for name in candidates if name in _own_folders()] or candidates
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise BundleError(
            f"bundle {wanted!r}: expected one name, got the beginning of several: {', '.join(candidates)}{hint}"
        )
    raise BundleError(f"bundle {wanted!r}: no such name or folder{hint}. Choose one of: {describe_all()}")


def as_folder(root: Path) -> str:
    """Return the path of a bundle's folder as `-b` takes it, with a separator."""
    return str(root) if os.sep in str(root) else f".{os.sep}{root}"


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
        return Bundle(name=name, root=own[name], trusted=True)
    entries = _entry_points()
    if name not in entries:
        return Bundle(name=name, root=added_folders()[name])
    entry = entries[name]
    try:
        value = entry.load()
        folder = Path(value() if callable(value) else value)
    except Exception as error:  # the entry point of another package, which the error names
        distribution = entry.dist.name if entry.dist else "an unknown package"
        raise BundleError(
            f"bundle {name!r}: its entry point {entry.value!r} of {distribution} failed: {one_line(error)}"
        ) from error
    return Bundle(name=name, root=folder, trusted=True)


def _own_folders() -> dict[str, Path]:
    package = Path(__file__).parent.parent
    for home in (package / "_bundles", package.parent.parent / "monai_bundle"):
        if home.is_dir():
            return {folder.name: folder for folder in sorted(home.iterdir()) if (folder / "configs").is_dir()}
    return {}


def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # `tomoseg --help` can do without it

    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}

"""Bundles that the user added: copies in the user's data folder, each with a record of where it came from."""

import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tomoseg.bundle.configs import SAFE_NAME
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.registry import added_folders, registered_names, store_folder
from tomoseg.core.archives import MAX_BYTES, MAX_FILES, unpack
from tomoseg.core.errors import BundleError, OutputError, UsageError, errors_as
from tomoseg.core.files import sha256, staging_folder
from tomoseg.core.json_files import write_json

ZOO = re.compile(r"zoo:(?P<name>[A-Za-z0-9][A-Za-z0-9_-]*)(@(?P<version>[0-9][0-9A-Za-z.]*))?")
LEFT_OUT = {".git", "__pycache__"}
MAX_DEPTH = 3  # folders in a ZIP above the bundle
# fetches a bundle of MONAI's model zoo: its name, its version or None, and the folder that is to hold it
Fetch = Callable[[str, str | None, Path], Path]


def add_bundle(source: str, name: str = "", *, fetch: Fetch) -> Bundle:
    """Copy a bundle into the user's data folder, whole or not at all; nothing of it runs.

    Args:
        source: a folder, a ZIP, or "zoo:NAME" or "zoo:NAME@VERSION" for MONAI's model zoo.
        name: its name; by default that of its folder, of its ZIP or in the zoo.
        fetch: brings a bundle of the zoo.

    Returns:
        The bundle, which is not trusted yet.

    Raises:
        UsageError: the name is taken or none, or there is no such source.
        BundleError: the source is no bundle, or one that would write outside of its folder.
        OutputError: it cannot be written.
    """
    zoo, path = ZOO.fullmatch(source), Path(source)
    if zoo is None and (source.startswith("zoo:") or not path.exists()):
        raise UsageError(f"--add: {source}: no such folder or ZIP. Give one, or zoo:NAME or zoo:NAME@VERSION")
    wanted = name or (zoo["name"] if zoo else path.resolve().name.removesuffix(".zip"))
    if not SAFE_NAME.fullmatch(wanted):
        raise UsageError(f"--name: expected letters, digits, - _ and ., got {wanted!r}. Choose another with --name")
    if wanted in registered_names():
        raise UsageError(f"--name: {wanted} is there already. Choose another with --name, or --remove it first")
    with staging_folder(store_folder()) as staging:
        if zoo:
            (staging / "fetched").mkdir()
            root = fetch(zoo["name"], zoo["version"], staging / "fetched")
        else:
            root = path if path.is_dir() else _find_bundle(unpack(path, staging / "unpacked"))
        copy = staging / wanted
        _copy(root, copy)
        licence = Bundle(wanted, copy).describe()["licence"]
        files = {str(one.relative_to(copy)): sha256(one) for one in sorted(copy.rglob("*")) if one.is_file()}
        date = datetime.now(UTC).isoformat(timespec="seconds")
        origin = {"source": source if zoo else str(path.absolute()), "date": date, "licence": licence, "files": files}
        target = store_folder() / wanted
        write_json(_record_of(wanted), origin)
        try:
            copy.replace(target)
        except OSError as error:
            _record_of(wanted).unlink(missing_ok=True)
            raise OutputError(f"{target}: cannot be written: {error.strerror}") from error
    return Bundle(wanted, target)


def remove_bundle(name: str) -> None:
    """Remove a bundle that the user added.

    Raises:
        UsageError: none is called so.
        OutputError: it cannot be removed.
    """
    if name not in (added := added_folders()):
        others = f"those are {', '.join(added)}" if added else "there is none"
        raise UsageError(f"--remove: {name}: no bundle that was added; {others}")
    with errors_as(OutputError, f"{added[name]}: cannot be removed", OSError):
        shutil.rmtree(added[name])
        _record_of(name).unlink(missing_ok=True)


def _record_of(name: str) -> Path:
    return store_folder() / f"{name}.json"


def _copy(source: Path, target: Path) -> None:
    """Copy a bundle's regular files."""
    if not (source / "configs").is_dir():
        raise BundleError(f"{source}: not a MONAI bundle: expected a folder 'configs'. Give the folder that has it")
    found, size = list[Path](), 0
    for path in source.rglob("*"):  # a folder may be any, even all of a disk
        if not LEFT_OUT.isdisjoint(path.relative_to(source).parts):
            continue
        if (path.is_symlink() and path.is_dir()) or not (path.is_dir() or path.is_file()):
            raise BundleError(f"{path}: expected a file or a folder, got a link to a folder or a device. Remove it")
        found.append(path)
        size += path.stat().st_size
        if len(found) > MAX_FILES or size > MAX_BYTES:
            raise BundleError(f"{source}: more than {MAX_FILES} files or {MAX_BYTES // 10**9} GB. Give one bundle")
    for path in found:
        made = target / path.relative_to(source)
        with errors_as(OutputError, f"{made}: cannot be copied", OSError):
            if path.is_dir():
                made.mkdir(parents=True, exist_ok=True)
            else:
                made.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, made)


def _find_bundle(folder: Path) -> Path:
    """Return the one bundle in an unpacked ZIP."""
    for depth in range(MAX_DEPTH + 1):
        found = [one.parent for one in folder.glob("*/" * depth + "configs") if one.is_dir()]
        if len(found) == 1:
            return found[0]
        if found:
            break
    raise BundleError("expected one folder 'configs' in the ZIP, as a MONAI bundle has it. Unpack it yourself")

"""Limits that Linux's control groups set for this process, its container's and those of the groups above it."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from tomoseg.core.files import read_text


def read_groups(
    controller: str, names: tuple[str, ...], names_of_version_1: tuple[str, ...], root: Path = Path("/")
) -> Iterator[list[str]]:
    """Yield what files of a controller hold in each group of this process, the groups above it included.

    Args:
        controller: e.g. "cpu" or "memory".
        names: files in version 2 of control groups.
        names_of_version_1: files in version 1.
        root: the folder with `proc` and `sys`.
    """
    groups = root / "proc" / "self" / "cgroup"
    for line in read_text(groups).splitlines() if groups.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        files = names_of_version_1 if controllers else names
        top = root / "sys" / "fs" / "cgroup" / (controller if controllers else "")
        group = PurePosixPath(path)
        for folder in (group, *group.parents):  # a container may see its own group as the root, and the host's path
            with suppress(OSError, ValueError):  # no such file
                yield [read_text(top / folder.relative_to("/") / name).strip() for name in files]

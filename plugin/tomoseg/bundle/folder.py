"""The folder of a bundle that is written: its name, the names in it, and all of it at once."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tomoseg.bundle.configs import SAFE_NAME
from tomoseg.bundle.trust import code_files, record
from tomoseg.core.errors import DatasetError, UsageError, errors_as
from tomoseg.core.files import staging_folder
from tomoseg.data.labels import require_distinct

INTERPRETED = set("#@%$")  # what MONAI gives a meaning in a config


def require_free(target: Path, overwrite: bool) -> str:
    """Return the name of a bundle's folder; UsageError where it cannot be written there.

    Args:
        target: the folder.
        overwrite: it may be there already.
    """
    name = target.resolve().name
    if not SAFE_NAME.fullmatch(name):
        raise UsageError(f"{target}: expected a folder's name of letters, digits, - _ and ., got {name!r}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())) and not overwrite:
        raise UsageError(f"{target}: exists. Choose another folder with -o, or --overwrite")
    return name


def require_safe_names(names: Collection[str], source: str) -> None:
    """Raise DatasetError for names of labels that a config cannot hold, or that mean one label.

    Args:
        names: without the background.
        source: what errors call where they stand.
    """
    unsafe = [name for name in names if set(name) & INTERPRETED or not name.strip() or not name.isprintable()]
    if unsafe:
        raise DatasetError(f"{source}: expected label names without # @ % $, got {unsafe[0]!r}. Rename it")
    with errors_as(DatasetError, source, UsageError):
        require_distinct(("background", *names))


@contextmanager
def new_bundle(target: Path) -> Iterator[Path]:
    """Yield a hidden folder beside the target; all that is written there takes its place at the end, and is trusted.

    Raises:
        OutputError: it cannot be written.
    """
    with staging_folder(target.absolute().parent) as hidden:
        staging = hidden / "bundle"  # that others may read it, as any folder
        staging.mkdir()
        yield staging
        made = [path.relative_to(staging) for path in sorted(staging.rglob("*")) if path.is_file()]
        if not target.exists():
            staging.replace(target)
        else:
            for path in made:
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                (staging / path).replace(target / path)
    if {path.relative_to(target) for path in code_files(target)} <= {*made}:  # all of them ours
        record(target)

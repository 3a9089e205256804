"""Errors of tomoseg: each message is one line with the expected value, the actual one and the remedy."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

# the first of the errors in a text of another process, as Python prints them: the one that caused the others
TRACEBACK = re.compile(
    r"Traceback \(most recent call last\):\n(?:[ \t].*\n)+(?P<error>\S(?s:.*?))\s*(?:\n\n(?:The above|During)|\Z)"
)


class TomosegError(Exception):
    """Base of every error that a user can correct."""


class UsageError(TomosegError, ValueError):
    """A call or a command line that asks for something that cannot be."""


class GeometryError(TomosegError, ValueError):
    """A shape or an affine that describes no volume."""


class VolumeError(TomosegError, ValueError):
    """A scan that cannot be read as one 3D volume. The file stands first in the message."""


class DatasetError(TomosegError, ValueError):
    """A labelled dataset that cannot be trained from. The file or folder stands first in the message.

    Args:
        errors: one line each.
    """

    def __init__(self, *errors: str) -> None:
        super().__init__("; ".join(errors))
        self.errors = errors


class TrainingError(TomosegError, RuntimeError):
    """A training that cannot start or continue; its saved state is kept."""


class OutputError(TomosegError, OSError):
    """A result that cannot be written. The file stands first in the message."""


class BundleError(TomosegError, ValueError):
    """A bundle that is unknown, incomplete or inconsistent. The bundle or its file stands first in the message."""


class BackendError(TomosegError, RuntimeError):
    """A network that a backend cannot run."""


class MemoryLimitError(TomosegError, MemoryError):
    """A scan that needs more memory than it may take. The file stands first in the message."""


class FreeMemoryError(TomosegError, MemoryError):
    """A scan that needs more memory than is free now. The file stands first in the message."""


class WorkerError(TomosegError, RuntimeError):
    """A worker of a batch that cannot do its part. Its machine stands first in the message."""


class SchemaVersionError(TomosegError, RuntimeError):
    """A JSON file that a newer version of tomoseg wrote. The file stands first in the message."""


class MissingPackageError(TomosegError, ImportError):
    """A package is not installed: that of an extra, or one that a platform may lack.

    Args:
        package: the package that failed to import.
        extra: the extra of tomoseg that brings it; none where tomoseg itself needs the package.
    """

    def __init__(self, package: str, extra: str = "") -> None:
        super().__init__(f"{package} is not installed. Install it with: {advise(package, extra)}")
        self.asked = package, extra

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), self.asked  # its arguments in another process


def advise(package: str, extra: str = "") -> str:
    """Return the command that installs a package, quoted for the shell.

    Args:
        package: its name, with versions or without.
        extra: the extra of tomoseg that brings it; none where tomoseg itself needs the package.
    """
    wanted = f"tomoseg[{extra}]" if extra else package
    return f'pip install "{wanted}"' if set(wanted) & set("[<>=!~*; ") else f"pip install {wanted}"


def import_package(module: str, package: str, extra: str = "") -> ModuleType:
    """Import a module of a package that may be missing.

    Raises:
        MissingPackageError: it is; the arguments are the error's.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingPackageError(package, extra) from error


@contextmanager
def errors_name(path: object, name: object) -> Iterator[None]:
    """Let errors of ours name what a user knows, in place of a temporary file or folder."""
    try:
        yield
    except TomosegError as error:
        error.args = (str(error).replace(str(path), str(name)),)
        raise


@contextmanager
def errors_as(
    kind: type[TomosegError], what: str, *foreign: type[BaseException], remedy: str = "", root: bool = False
) -> Iterator[None]:
    """Raise other errors as one of ours, "WHAT: THEIR MESSAGE"; a `TomosegError` passes unless its kind is named.

    Args:
        kind: of the error that is raised.
        what: the path or option, and what failed.
        foreign: kinds of errors that the code inside may raise.
        remedy: follows their message.
        root: give the message of the error that caused theirs, if there is one.
    """
    try:
        yield
    except foreign as error:
        if isinstance(error, TomosegError) and type(error) not in foreign:
            raise
        raise kind(f"{what}: {one_line(root_cause(error) if root else error)}{remedy}") from error


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return the message of `error` as a single line of at most `limit` characters; of a traceback, its last line."""
    text = str(error)
    traceback = TRACEBACK.search(text)
    return shorten(traceback["error"] if traceback else text, limit) or type(error).__name__


def printable(text: str) -> str:
    r"""Return a text as it may be shown: what steers a terminal, or turns the direction of writing, as an escape.

    Example:
        >>> from tomoseg.core.errors import printable
        >>> printable("scan\x1b[2J\u202e.nii")
        'scan\\x1b[2J\\u202e.nii'
    """
    escapes = (one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
    return text if text.isprintable() else "".join(escapes)


def shorten(text: str, limit: int) -> str:
    """Return a text as a single line of at most `limit` characters, as it may be shown."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def some(names: Sequence[object], most: int = 10, separator: str = ", ") -> str:
    """Return the first names of many, and how many there are more."""
    shown = separator.join(map(str, names[:most]))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def root_cause(error: BaseException) -> BaseException:
    """Return the error that MONAI wrapped: its own messages quote whole configs and batches."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error

"""How scans are read: the time and the memory that one may take, and corrections of DICOM series."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated

from tomoseg.core.errors import FreeMemoryError, MemoryLimitError, UsageError
from tomoseg.core.memory import free_bytes, megabytes
from tomoseg.core.options import Option

FREE_SHARE = 0.8  # of the memory that is free: what a scan may take without being asked for


@dataclass(frozen=True)
class ReadOptions:
    """How long reading one scan may take, how much memory, and which DICOM series are corrected.

    Attributes:
        read_timeout: seconds after which a scan that is still being read fails.
        allow_large: read scans that take more than 80 % of the free memory, or than --max-memory.
        fill_gaps: interpolate slices where a DICOM series lacks some, or has an uneven spacing.
        one_series: take DICOM images together that each have a SeriesInstanceUID or a FrameOfReferenceUID of their own.
        max_bytes: limit of RAM in bytes; by default 80 % of the free RAM.

    Raises:
        UsageError: a value is out of range.

    Example:
        >>> import tomoseg
        >>> tomoseg.ReadOptions(read_timeout=60).allow_large
        False
    """

    read_timeout: Annotated[float, Option("SECONDS")] = 600
    allow_large: bool = False
    fill_gaps: bool = False
    one_series: bool = False
    max_bytes: Annotated[int | None, Option(hidden=True)] = None

    def __post_init__(self) -> None:
        if not 0 < self.read_timeout < math.inf:
            raise UsageError(f"read timeout: expected a number of seconds above 0, got {self.read_timeout}")

    @property
    def room_bytes(self) -> int | None:
        """The memory that a scan may take now, in bytes; None without a limit."""
        if self.allow_large:
            return None
        return self.max_bytes or int(FREE_SHARE * free_bytes())


_current: ContextVar[ReadOptions] = ContextVar("reading", default=ReadOptions())  # noqa: B039 - frozen
current_read_options = _current.get
set_read_options = _current.set  # of a thread that starts


@contextmanager
def read_with(options: ReadOptions) -> Iterator[None]:
    """Let these options hold for what this thread reads meanwhile, e.g. in `inspect`, `evaluate` and `plan`.

    Args:
        options: the limits.

    Returns:
        A context manager.

    Example:
        >>> import tomoseg
        >>> with tomoseg.read_with(tomoseg.ReadOptions(read_timeout=60)):
        ...     tomoseg.read_volume("scans/scan.nii.gz").grid.shape
        (40, 56, 40)
    """
    token = _current.set(options)
    try:
        yield
    finally:
        _current.reset(token)


def require_room(name: str, voxels: int, stored_bytes: int = 0) -> None:
    """Refuse a scan that declares more voxels than may be taken, before memory is reserved for them.

    Args:
        name: of the scan, for the error.
        voxels: how many float32 values will be kept, all channels together.
        stored_bytes: bytes of the stored voxels.

    Raises:
        MemoryLimitError: they take more than the user's limit.
        FreeMemoryError: they take more than 80 % of the memory that is free.
    """
    options = current_read_options()
    copies = 1 if options.max_bytes is not None else 2  # a transform's output; under --max-memory, the run plans it
    needed, room = 4 * voxels * copies + stored_bytes, options.room_bytes
    if room is None or needed <= room:
        return
    declared = f"{name}: its header declares voxels that take {megabytes(needed)} MB of memory"
    if options.max_bytes is not None:
        raise MemoryLimitError(f"{declared}, --max-memory allows {megabytes(room)} MB. Allow more.")
    raise FreeMemoryError(f"{declared}, {megabytes(room)} MB are available. Pass --allow-large to read it.")

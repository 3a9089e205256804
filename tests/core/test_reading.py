"""Limits on what reading one scan may take."""

from __future__ import annotations

import pytest

from tomoseg.core import reading
from tomoseg.core.errors import FreeMemoryError, MemoryLimitError
from tomoseg.core.reading import ReadOptions, read_with, require_room

FREE = 1_000_000_000
# voxels, bytes on disk, limit of the user: the error, None for a scan that is read
ROOM: dict[str, tuple[int, int, int | None, type[Exception] | None]] = {
    "float32 and a copy of it fit into 80 % of what is free": (100_000_000, 0, None, None),
    "a copy too many": (100_000_001, 0, None, FreeMemoryError),
    "with what is stored, a copy too many": (90_000_000, 80_000_001, None, FreeMemoryError),
    "a limit of the user counts no copies, which its plan counts": (100_000_000, 0, 400_000_000, None),
    "more than the limit of the user": (100_000_001, 0, 400_000_000, MemoryLimitError),
}


@pytest.mark.parametrize(("voxels", "stored", "limit", "error"), ROOM.values(), ids=ROOM)
def test_memory_is_counted_before_it_is_taken(
    voxels: int, stored: int, limit: int | None, error: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "free_bytes", lambda: FREE)
    with read_with(ReadOptions(max_bytes=limit)):
        if error is None:
            require_room("scan.nii", voxels, stored)
            return
        with pytest.raises(error, match=r"^scan\.nii: its header declares voxels that take \d+ MB of memory"):
            require_room("scan.nii", voxels, stored)
    with read_with(ReadOptions(max_bytes=limit, allow_large=True)):
        require_room("scan.nii", voxels, stored)

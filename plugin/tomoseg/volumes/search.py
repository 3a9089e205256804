"""The volumes below a folder."""

from __future__ import annotations

import os
from pathlib import Path

from tomoseg.volumes.nifti import VOLUME_SUFFIXES


def find_volumes(folder: Path, leave_out: Path | None = None) -> list[Path]:
    """Return the NIfTI files below `folder`, sorted; hidden ones, and those below `leave_out`, are left out."""
    found: list[Path] = []
    for here, folders, names in os.walk(folder):
        place = Path(here)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (leave_out is None or (place / name).resolve() != leave_out.resolve())
        )
        found.extend(
            place / name for name in names if name.lower().endswith(VOLUME_SUFFIXES) and not name.startswith(".")
        )
    return sorted(found)

"""Where heads lie in scans that were registered before, in any process of the app."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tomoseg.core.errors import SchemaVersionError
from tomoseg.core.json_files import read_json, write_json
from tomoseg.core.version import __version__
from tomoseg.data.geometry import Grid
from tomoseg.inference.localisation.registration import Registration, register
from tomoseg.inference.localisation.template import Template


@dataclass(frozen=True)
class KnownHeads:
    """A `FindHead` that registers each scan once, and knows it again by its voxels and its grid.

    Attributes:
        folder: a JSON file for each scan.
    """

    folder: Path

    def __call__(self, template: Template, array: NDArray[np.float32], grid: Grid) -> Registration:
        """Return where the template lies, as `register` does."""
        known = hashlib.sha256(f"{__version__} {grid.shape} {grid.affine.tolist()}".encode())
        known.update(np.ascontiguousarray(array.T).data)
        path = self.folder / f"{known.hexdigest()}.json"
        with suppress(OSError, ValueError, KeyError, TypeError, SchemaVersionError):
            kept = read_json(path)
            matrix = np.array(kept["matrix"], np.float64).reshape(4, 4)
            return Registration(matrix, float(kept["similarity"]), float(kept["seen"]))
        found = register(template, array, grid)
        values = {"similarity": float(found.similarity), "seen": float(found.seen)}
        write_json(path, {"matrix": found.matrix.tolist(), **values})
        return found

"""Acquisition scores of images, kept in a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomoseg.core.json_files import read_json, write_json


@dataclass(frozen=True)
class AcquisitionScores:
    """The scores of all images under one version of a bundle's weights.

    They are in a file of their own, for MONAI Label's record of the studies is written by several processes, and loses
    what one of them adds in between.

    Attributes:
        path: a JSON file; it need not be there yet.
        weights: SHA-256 of the weights; scores of others are not read.
    """

    path: Path
    weights: str

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the scores by image id."""
        try:
            content = read_json(self.path)
            found: dict[str, dict[str, Any]] = content["images"] if content["weights"] == self.weights else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return found

    def add(self, image_id: str, values: Mapping[str, Any]) -> None:
        """Add scores of an image.

        Raises:
            OutputError: the file cannot be written.
        """
        images = self.read()
        images[image_id] = {**images.get(image_id, {}), **values}
        write_json(self.path, {"weights": self.weights, "images": images})

"""How large a network may get, and how long it is trained."""

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

PresetName = Literal["small", "medium", "large"]
BATCHES = {"cpu": 2, "cuda": 8}


@dataclass(frozen=True)
class Preset:
    """How large a network may get.

    Attributes:
        features: of its first level, the most, by device.
        fewest_features: of its first level, the fewest, by device; rather than less, coarse levels get fewer.
        most_features: of any level.
        parameters: of all, in millions, the most.
        edge: of a cubic window, in voxels, by device.
        epochs: of its training, by device; a small network goes on learning, and its steps are cheap.
        residual: whether its encoder is residual.
    """

    features: dict[str, int]
    fewest_features: dict[str, int]
    most_features: int
    parameters: float
    edge: dict[str, int]
    epochs: dict[str, int]
    residual: bool


PRESETS: dict[str, Preset] = {
    name: Preset(**entry)
    for name, entry in json.loads(files(__package__).joinpath("presets.json").read_text(encoding="utf-8")).items()
}

"""How large a network may get, and how long it is trained."""

from dataclasses import dataclass
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
        voxels: of the window, by device.
        epochs: of its training, by device.
        residual: whether its encoder is residual.
    """

    features: dict[str, int]
    fewest_features: dict[str, int]
    most_features: int
    parameters: float
    voxels: dict[str, int]
    epochs: dict[str, int]
    residual: bool = False


PRESETS: dict[str, Preset] = {
    "small": Preset(
        features={"cpu": 16, "cuda": 16},
        fewest_features={"cpu": 8, "cuda": 8},
        most_features=80,
        parameters=0.74,
        voxels={"cpu": 64**3, "cuda": 96**3},
        # a step is cheap, and a small network goes on learning
        epochs={"cpu": 150, "cuda": 250},
    ),
    "medium": Preset(
        features={"cpu": 24, "cuda": 32},
        fewest_features={"cpu": 8, "cuda": 16},
        most_features=320,
        parameters=6.2,
        voxels={"cpu": 74**3, "cuda": 128**3},
        epochs={"cpu": 100, "cuda": 250},
    ),
    "large": Preset(
        features={"cpu": 32, "cuda": 32},
        fewest_features={"cpu": 8, "cuda": 16},
        most_features=320,
        parameters=60,
        voxels={"cpu": 96**3, "cuda": 160**3},
        epochs={"cpu": 100, "cuda": 250},
        residual=True,
    ),
}

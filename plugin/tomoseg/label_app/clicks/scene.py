"""An image with what the network made of it, which clicks correct."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tomoseg.data.read import read_volume
from tomoseg.data.volume import Volume
from tomoseg.inference.segmentation import Segmentation
from tomoseg.inference.segmenter import Prepared, Segmenter
from tomoseg.label_app.answer import log_warnings
from tomoseg.label_app.clicks.log_probabilities import CropProbabilities, LocalProbabilities


@dataclass(frozen=True, eq=False)
class Scene:
    """An image with what the network made of it.

    Attributes:
        volume: the image.
        segmenter: what ran the network.
        prepared: the image as the network has it.
        result: labels with the bundle's own values.
    """

    volume: Volume
    segmenter: Segmenter
    prepared: Prepared
    result: Segmentation

    @cached_property
    def log_probabilities(self) -> LocalProbabilities | CropProbabilities:
        """The network's around any place of the image."""
        if self.prepared.located is None:
            return LocalProbabilities(self.segmenter, self.prepared, self.volume.grid)
        crops = [place.crop for place in self.result.places]
        looks = [(self.segmenter.prepare(crop.volume, as_it_is=True), crop.scan_grid) for crop in crops]
        return CropProbabilities(self.result.places, [LocalProbabilities(self.segmenter, *look) for look in looks])


def look(segmenter: Segmenter, source: Path) -> Scene:
    """Return an image with the result of the network.

    Raises:
        TomosegError: it cannot be segmented.
    """
    volume = read_volume(source)
    prepared = segmenter.prepare(volume)
    result = segmenter.predict(prepared)
    log_warnings(result, source)
    return Scene(volume, segmenter, prepared, result)

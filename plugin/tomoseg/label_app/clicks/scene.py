"""An image with what the network made of it, which clicks correct."""

from dataclasses import dataclass
from pathlib import Path

from tomoseg.bundle.options import RunOptions
from tomoseg.data.read import read_volume
from tomoseg.data.volume import Volume
from tomoseg.inference.segmentation import Segmentation
from tomoseg.label_app.answer import log_warnings
from tomoseg.label_app.clicks.log_probabilities import CropProbabilities, LocalProbabilities
from tomoseg.label_app.model import ServedModel
from tomoseg.label_app.versions import Version


@dataclass(frozen=True, eq=False)
class Scene:
    """An image with what the network made of it.

    Attributes:
        volume: the image.
        result: labels with the served numbers.
        log_probabilities: the network's around any place of the image.
    """

    volume: Volume
    result: Segmentation
    log_probabilities: LocalProbabilities | CropProbabilities


def look(model: ServedModel, source: Path, options: RunOptions, version: Version) -> Scene:
    """Return an image with the result of the network and its log_probabilities.

    Args:
        model: the bundle.
        source: the image.
        options: how the bundle is run; where the structures are, if that is given by hand.
        version: of the weights.

    Raises:
        TomosegError: it cannot be segmented.
    """
    volume = read_volume(source)
    segmenter = model.segmenter(options, version)
    prepared = segmenter.prepare(volume)
    result = segmenter.predict(prepared)
    if prepared.located is None:
        return Scene(volume, model.labels.serve(result), LocalProbabilities(segmenter, prepared, volume.grid))
    log_warnings(result, source)
    crops = [place.crop for place in result.places]
    seen = [LocalProbabilities(segmenter, segmenter.prepare(one.volume, as_it_is=True), one.scan_grid) for one in crops]
    return Scene(volume, model.labels.serve(result), CropProbabilities(result.places, seen))

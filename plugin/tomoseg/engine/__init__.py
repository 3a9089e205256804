"""The engine: a volume through a network in slabs, straight into labels in the scan's own grid."""

from tomoseg.engine.placement import NotRecognisedError, Placement, place
from tomoseg.engine.recognise import Recipe, recognise_inferer, recognise_postprocessing
from tomoseg.engine.stream import segment_streamed

__all__ = [
    "NotRecognisedError",
    "Placement",
    "Recipe",
    "place",
    "recognise_inferer",
    "recognise_postprocessing",
    "segment_streamed",
]

"""The engine: a volume through a network in slabs, straight into labels in the scan's own grid."""

from tomoseg.engine.backends import (
    BACKENDS,
    PRECISIONS,
    Backend,
    Int8Network,
    choose_backend,
    choose_precision,
    find_int8,
    int8_path,
    make_backend,
)
from tomoseg.engine.decision import Interpolated
from tomoseg.engine.ensemble import averaged
from tomoseg.engine.memory import PeakMemory, is_out_of_memory, megabytes, release_unused
from tomoseg.engine.placement import NotRecognisedError, Placement, identity_placement, place
from tomoseg.engine.recognise import Recipe, recognise_inferer, recognise_postprocessing
from tomoseg.engine.stream import Limits, OnWindow, Output, segment_streamed
from tomoseg.engine.threads import use_threads
from tomoseg.engine.uncertainty import sigmoid_entropy, softmax_entropy
from tomoseg.engine.windows import place_windows

__all__ = [
    "BACKENDS",
    "PRECISIONS",
    "Backend",
    "Int8Network",
    "Interpolated",
    "Limits",
    "NotRecognisedError",
    "OnWindow",
    "Output",
    "PeakMemory",
    "Placement",
    "Recipe",
    "averaged",
    "choose_backend",
    "choose_precision",
    "find_int8",
    "identity_placement",
    "int8_path",
    "is_out_of_memory",
    "make_backend",
    "megabytes",
    "place",
    "place_windows",
    "recognise_inferer",
    "recognise_postprocessing",
    "release_unused",
    "segment_streamed",
    "sigmoid_entropy",
    "softmax_entropy",
    "use_threads",
]

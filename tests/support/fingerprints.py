"""Fingerprints of datasets to plan for."""

from __future__ import annotations

from dataclasses import replace

from tomoseg.planning.fingerprint import Fingerprint, LabelPrint
from tomoseg.planning.options import PlanningOptions

# of 208 hippocampi of the Decathlon
HIPPOCAMPUS = Fingerprint(
    cases=208,
    validation_cases=0,
    median_shape=(35, 50, 36),
    largest_shape=(42, 58, 45),
    median_spacing_mm=(1.0, 1.0, 1.0),
    coarse_spacing_mm=(1.0, 1.0, 1.0),
    finest_spacing_mm=(1.0, 1.0, 1.0),
    median_extent_mm=(35.0, 50.0, 36.0),
    largest_extent_mm=(42.0, 58.0, 45.0),
    zeros=0.0,
    intensity_mean=19609.8,
    intensity_sd=56154.8,
    intensity_low=28.0,
    intensity_high=265104.0,
    labels=(LabelPrint(1, "Anterior", 208, 208, 1.7), LabelPrint(2, "Posterior", 208, 208, 1.6)),
    partial=False,
    opposite=(),
)
BUDGET = PlanningOptions(8 * 10**9, "cpu")


def with_spacing(x: float, y: float, z: float, shape: tuple[int, int, int] = (256, 256, 60)) -> Fingerprint:
    return replace(
        HIPPOCAMPUS,
        median_shape=shape,
        largest_shape=shape,
        median_spacing_mm=(x, y, z),
        coarse_spacing_mm=(0.8 * x, 0.8 * y, 0.8 * z),
        median_extent_mm=(shape[0] * x, shape[1] * y, shape[2] * z),
        largest_extent_mm=(shape[0] * x, shape[1] * y, shape[2] * z),
    )

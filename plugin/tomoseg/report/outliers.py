"""Detection of scans whose labels have an unusual volume or intensity."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993): a modified z-score beyond 3.5 is an outlier. 1.4826
# times the median absolute deviation, and sqrt(pi / 2) times the mean one, is the SD of a normal distribution.
OUTLIER_SDS = 3.5
MEDIAN_TO_SD, MEAN_TO_SD = 1.4826, 1.2533
MIN_SCANS_FOR_RANGE = 8  # too few scans below for a range
SAME_VOLUME_TOLERANCE = 1e-6  # of the median: one scan stored twice differs by this much where an affine was rounded


@dataclass(frozen=True, eq=False)
class ReferenceRange:
    """What the volumes of one label are usually like.

    Attributes:
        median_ml: their median.
        range_ml: `[lowest, highest]` that is not unusual.
        present: how many are above 0.
        outliers: (scan,) whether it stands out, by its volume or because the label is absent.
    """

    median_ml: float
    range_ml: tuple[float, float]
    present: int
    outliers: NDArray[np.bool_]


def find_outliers(volumes_ml: Sequence[float]) -> ReferenceRange | None:
    """Find the unusual volumes of one label among those of many scans.

    A volume stands out where it is more than 3.5 × 1.4826 × MAD away from the median (MAD: median absolute deviation;
    where that is 0, the mean one takes its place), or where it is 0 and most of the others are not.

    Args:
        volumes_ml: one a scan, 0 where the label is absent.

    Returns:
        None for fewer than 8 scans.
    """
    volumes = np.asarray(volumes_ml, dtype=np.float64)
    if len(volumes) < MIN_SCANS_FOR_RANGE:
        return None
    present = int(np.count_nonzero(volumes))
    median = float(np.median(volumes))
    deviations = np.abs(volumes - median)
    spread = MEDIAN_TO_SD * float(np.median(deviations)) or MEAN_TO_SD * float(np.mean(deviations))
    limit = max(OUTLIER_SDS * spread, SAME_VOLUME_TOLERANCE * median)
    outliers = deviations > limit
    if median == 0:  # most lack it, so having it is no fault
        outliers[:] = False
    if present > (len(volumes) - 1) / 2:
        outliers |= volumes == 0
    return ReferenceRange(median, (max(median - limit, 0.0), median + limit), present, outliers)

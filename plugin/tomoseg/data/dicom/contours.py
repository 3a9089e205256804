"""The outline of a mask in one plane, as polygons without holes."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.int64]  # (N, 2), in half pixels, so that they are whole numbers


def trace_contours(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Return closed polygons that hold the centre of every pixel of a mask, and of no other pixel.

    They run half-way between a pixel inside and one outside, and never through a pixel's centre. A hole is joined to
    what surrounds it by a channel without width ("keyhole"), along which the polygon runs in and out again
    (https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_C.8.8.6.html).

    Args:
        mask: (I, J), true inside.

    Returns:
        Polygons (N, 2) in pixels (i, j); centres lie at whole numbers. The first point is not repeated.
    """
    import contourpy

    padded = np.pad(mask, 1)
    # contourpy's x is the second axis
    generator: Any = contourpy.contour_generator(z=padded.astype(np.float64), fill_type=contourpy.FillType.OuterOffset)
    polygons, offsets = generator.filled(0.5, 2)
    contours = []
    for points, offset in zip(polygons, offsets, strict=True):
        doubled = np.rint(points[:, ::-1] * 2).astype(np.int64)
        rings = [doubled[start : stop - 1] for start, stop in pairwise(offset.tolist())]
        ring = _without_collinear(rings[0] if len(rings) == 1 else _join(rings, padded))
        contours.append(ring / 2 - 1)
    return contours


def _join(rings: Sequence[Points], mask: NDArray[np.bool_]) -> Points:
    """Return one ring that runs round the first of these rings, which holds the others, and round each of those.

    Of the points of a ring that lie half-way between two pixels of one i, that with the least i is joined to the next
    ring in the direction of -i. The channel stays at its j, so that it meets no pixel's centre, and within the mask.
    The ring that it meets reaches further in that direction than the ring itself, so all are joined to the first in the
    end.
    """
    points = [(int(i), int(j)) for i, j in np.concatenate(rings)]
    following: list[int] = []
    for ring in rings:
        start = len(following)
        following += [*range(start + 1, start + len(ring)), start]
    place = {point: number for number, point in enumerate(points)}  # no two points of contours are the same
    channels = []
    for ring in rings[1:]:
        crossings = ring[ring[:, 0] % 2 == 0]
        i, j = crossings[np.lexsort((-crossings[:, 1], crossings[:, 0]))[0]].tolist()
        sides = mask[: i // 2, (j - 1) // 2], mask[: i // 2, (j + 1) // 2]
        stop = int(np.flatnonzero(~(sides[0] & sides[1]))[-1])
        if sides[0][stop] or sides[1][stop]:
            target = place[2 * stop, j]
        else:  # the ring crosses between two of its points
            target = len(points)
            points.append((2 * stop + 1, j))
            ends = place[2 * stop + 1, j - 1], place[2 * stop + 1, j + 1]
            before, after = ends if following[ends[0]] == ends[1] else ends[::-1]
            following[before] = target
            following.append(after)
        channels.append((place[i, j], target))
    for start, target in channels:
        # each end of a channel is passed twice: before going in, and after coming out
        points += [points[start], points[target]]
        following += [following[start], following[target]]
        following[start], following[target] = len(points) - 1, len(points) - 2
    order = [0]
    while following[order[-1]] != 0:
        order.append(following[order[-1]])
    return np.array([points[number] for number in order])


def _without_collinear(ring: Points) -> Points:
    """Return a ring without the points that lie between their neighbours on a straight line."""
    incoming = ring - np.roll(ring, 1, axis=0)
    outgoing = np.roll(ring, -1, axis=0) - ring
    cross = incoming[:, 0] * outgoing[:, 1] - incoming[:, 1] * outgoing[:, 0]
    return np.asarray(ring[cross != 0])  # no contour turns back on the spot

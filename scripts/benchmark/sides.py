#!/usr/bin/env python3
"""Show which side the crops of the hippocampus data are: `scripts/benchmark/sides.py data/Task04_Hippocampus`.

Each image is compared with the boxes round either hippocampus of MNI152, each label map with the mean of
the others, unchanged and mirrored. Run it with a Python that has tomoseg.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tomoseg import Grid, Segmenter, Volume, find_bundle, read_volume
from tomoseg.inference.localisation.declaration import read_localisation
from tomoseg.inference.localisation.template import template_files

SIZE = 64  # of the grid in which label maps are compared
SHIFTS_MM = range(-8, 9, 2)  # round the box's centre, for hippocampi are not all in one place


def centred(labels: NDArray[Any]) -> NDArray[np.float64]:
    centre = np.array(ndimage.center_of_mass(labels > 0))
    shape = (SIZE, SIZE, SIZE)
    moved = ndimage.affine_transform((labels > 0).astype(float), np.eye(3), centre - SIZE / 2, shape, order=1)
    return np.asarray(moved)


def dice(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(2 * np.minimum(one, other).sum() / (one.sum() + other.sum()))


def correlation(crop: NDArray[Any], centre: NDArray[np.float64], head: Volume, place: NDArray[np.float64]) -> float:
    """Return the highest correlation of a crop with the head where its structure's centre is near a place, in mm."""
    best = -1.0
    limited = np.minimum(crop, np.quantile(crop, 0.995)).ravel()
    for shift in itertools.product(SHIFTS_MM, repeat=3):
        voxel = np.linalg.solve(head.grid.affine, (*(place + shift), 1))[:3]
        first = np.round(voxel - centre).astype(int)
        part = head.array[tuple(slice(start, start + size) for start, size in zip(first, crop.shape, strict=True))]
        best = max(best, float(np.corrcoef(limited, part.ravel())[0, 1]))
    return best


def entropies(segmenter: Segmenter, head: Volume, box: NDArray[np.float64]) -> list[float]:
    """Return the mean entropy within the labels of a box of the head, unchanged and mirrored."""
    first, last = (np.linalg.solve(head.grid.affine, (*corner, 1))[:3].round().astype(int) for corner in box)
    part = head.array[tuple(map(slice, first, last))]
    found = []
    for array in (part, part[::-1]):
        result = segmenter(Volume(np.ascontiguousarray(array), Grid(array.shape, np.eye(4)), "box"))
        assert result.entropy is not None
        found.append(float(result.entropy[result.labels > 0].mean()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="the folder of Task04_Hippocampus")
    dataset = parser.parse_args().dataset
    head, bundle = read_volume(template_files()[0]), find_bundle("hippocampus")
    declared = read_localisation(bundle)
    assert declared is not None
    places = [np.mean(region.box_mm, axis=0) for region in declared.regions]
    maps, correlations = [], []
    for entry in json.loads((dataset / "dataset.json").read_text())["training"]:
        labels = np.asanyarray(nib.load(dataset / entry["label"]).dataobj)
        crop = np.asanyarray(nib.load(dataset / entry["image"]).dataobj).astype(float)
        maps.append(centred(labels))
        centre = np.array(ndimage.center_of_mass(labels > 0))
        correlations.append([correlation(crop, centre, head, place) for place in places])
    left, right = np.array(correlations).T
    print(f"images more like the left box than the right: {np.count_nonzero(left > right)} of {len(left)}")
    print(f"  mean correlation: left {left.mean():.3f}, right {right.mean():.3f}")
    total = np.sum(maps, axis=0)
    means = [(total - one) / (len(maps) - 1) for one in maps]
    same = np.array([dice(one, mean) for one, mean in zip(maps, means, strict=True)])
    mirrored = np.array([dice(one[::-1], mean) for one, mean in zip(maps, means, strict=True)])
    print(f"label maps more like the mean unchanged than mirrored: {np.count_nonzero(same > mirrored)} of {len(same)}")
    print(f"  mean Dice: unchanged {same.mean():.3f}, mirrored {mirrored.mean():.3f}")
    segmenter = Segmenter.from_bundle("hippocampus", device="cpu", uncertainty=True)
    for region in declared.regions:
        plain, flipped = entropies(segmenter, head, np.array(region.box_mm))
        print(f"{region.name} of MNI152, mean entropy within the labels: unchanged {plain:.4f}, mirrored {flipped:.4f}")


if __name__ == "__main__":
    main()

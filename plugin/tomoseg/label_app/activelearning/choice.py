"""Which image to label next."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Scores = Mapping[str, Mapping[str, Any]]


def choose_random(candidates: Sequence[str], generator: random.Random | None = None) -> str:
    """Return one of the images, each as likely as the others."""
    return (generator or random.Random()).choice(sorted(candidates))


def choose_uncertain(candidates: Sequence[str], scores: Scores, by: str = "expected_dice") -> str | None:
    """Return the image that the model is least sure of.

    Args:
        candidates: images without a label.
        scores: by image id.
        by: "entropy" (the highest) or "expected_dice" (the lowest).

    Returns:
        None if none of them is scored yet.
    """
    scored = {image: float(scores[image][by]) for image in sorted(candidates) if by in scores.get(image, {})}
    if not scored:
        return None
    return min(scored, key=scored.__getitem__) if by == "expected_dice" else max(scored, key=scored.__getitem__)


def choose_diverse(candidates: Sequence[str], labelled: Sequence[str], scores: Scores) -> str | None:
    """Return the image that is farthest from all that are labelled; without any, the one in the middle of all.

    This is the greedy k-centre of Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set
    Approach", ICLR 2018, https://arxiv.org/abs/1708.00489.

    Args:
        candidates: images without a label.
        labelled: images with one.
        scores: their `features` by image id.

    Returns:
        None if none of the candidates has features yet.
    """
    names = [image for image in sorted(candidates) if "features" in scores.get(image, {})]
    if not names:
        return None
    points = np.array([scores[image]["features"] for image in names])
    centres = [scores[image]["features"] for image in labelled if "features" in scores.get(image, {})]
    if not centres:
        return names[int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmin())]
    distances = np.linalg.norm(points[:, None] - np.array(centres)[None], axis=2).min(axis=1)
    return names[int(distances.argmax())]

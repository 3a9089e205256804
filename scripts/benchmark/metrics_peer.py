"""Compare two label maps with MONAI's metrics, label by label, and print the scores and the seconds."""

from __future__ import annotations

import json
import sys
import time

import nibabel as nib
import numpy as np
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_confusion_matrix_metric,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    compute_surface_dice,
    get_confusion_matrix,
)

RATIOS = {"precision": "precision", "recall": "sensitivity", "accuracy": "accuracy"}


def main() -> None:
    """Arguments: the prediction, the reference."""
    started = time.perf_counter()
    images = [nib.load(path) for path in sys.argv[1:3]]
    prediction, reference = (torch.from_numpy(np.asarray(image.dataobj)) for image in images)
    how = {"include_background": True, "spacing": tuple(map(float, images[1].header.get_zooms()))}
    labels = []
    for label in torch.unique(reference).tolist()[1:]:
        ours, theirs = ((labels == label)[None, None] for labels in (prediction, reference))
        confusion = get_confusion_matrix(ours.float(), theirs.float(), include_background=True)
        scores = {name: compute_confusion_matrix_metric(known, confusion) for name, known in RATIOS.items()}
        scores["dice"] = compute_dice(ours, theirs, include_background=True)
        scores["jaccard"] = compute_iou(ours, theirs, include_background=True)
        scores["hd95_mm"] = compute_hausdorff_distance(ours, theirs, percentile=95, **how)
        scores["assd_mm"] = compute_average_surface_distance(ours, theirs, symmetric=True, **how)
        scores["nsd"] = compute_surface_dice(ours, theirs, class_thresholds=[1.0], **how)
        labels.append({"label": label, **{name: float(value) for name, value in scores.items()}})
    print(json.dumps({"seconds": time.perf_counter() - started, "labels": labels}))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measure what the overlap of windows costs and gives: `scripts/benchmark/overlap.py BUNDLE DATASET FOLD`.

FOLD and --checkpoint are those of `precision.py`. Prints a table in Markdown: windows and seconds of the median scan,
and the mean Dice of each label with its change from an overlap of 0.5. Run it with a Python that has tomoseg.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from precision import read_arguments
from tomoseg import RunOptions, Segmenter
from tomoseg.core.notes import print_line
from tomoseg.training.validation_dice import DiceMeter, mean_of_labels

OVERLAPS = (0.5, 0.25, 0.125, 0.0)


def main() -> None:
    bundle, dataset, pairs, checkpoint = read_arguments(__doc__ or "")
    meter, weights = DiceMeter(bundle, dataset), (str(checkpoint),) if checkpoint else ()
    names = [name.replace("_", " ") for name in meter.labels.values()]
    print_line(f"| overlap | windows | seconds | {' | '.join(names)} |")
    print_line(f"|---|---|---|{'---|' * len(names)}")
    own = None
    for overlap in OVERLAPS:
        segmenter = Segmenter(bundle, RunOptions(device="cpu", overlap=overlap, checkpoints=weights))
        dice, seconds, windows = [], [], []
        for pair in pairs:
            start = time.perf_counter()
            found = segmenter(pair.source)
            seconds.append(time.perf_counter() - start)
            windows.append(found.stats.windows)
            dice.append(meter.measure(found.labels, pair)[0])
        means = np.array(mean_of_labels(dice))
        own = means if own is None else own
        cells = [f"{mean:.4f} ({change:+.4f})" for mean, change in zip(means, means - own, strict=True)]
        print_line(f"| {overlap} | {median(windows):.0f} | {median(seconds):.2f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

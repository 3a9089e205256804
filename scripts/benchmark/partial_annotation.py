"""Measure the gain of declaring missing annotations, on cases with one label or the other.

    .venv/bin/python scripts/benchmark/partial_annotation.py DATASET [--cases N] [--seeds 3] [--epochs 40] [--json FILE]

DATASET is the hippocampus task of the Medical Segmentation Decathlon with `splits.json`. Of the cases that fold 0
trains on, half keep the first label only and half the second. dataset.json declares it by `annotated`, or does not, so
that the rest is background; a third way has all labels. The cases of fold 0 are scored, with all labels.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from comparison import Case, Way, compare, make_parser, read_cases, write_dataset


def main() -> None:
    parser = make_parser(__doc__, seeds=3)
    parser.add_argument("--cases", type=int, help="that are trained on; all of the fold's if not given")
    options = parser.parse_args()
    training, held_out = read_cases(options.dataset)
    if options.cases is not None and not 2 <= options.cases <= len(training):
        parser.error(f"cases: expected 2 to {len(training)}, got {options.cases}")
    declared = json.loads((options.dataset / "dataset.json").read_text())["labels"]
    names = {int(value): name for value, name in declared.items() if int(value)}

    def ways(seed: int, place: Path) -> list[Way]:
        order = np.random.default_rng(seed).permutation(len(training))[: options.cases]
        chosen = [training[index] for index in order]
        reported = write_partial(place / "reported", options.dataset, chosen, held_out, names)
        untold = write_partial(place / "untold", options.dataset, chosen, held_out, names, reported=False)
        full = write_dataset(place / "full", options.dataset, chosen, held_out)
        return [
            Way("annotated labels declared", reported),
            Way("the rest is background", untold),
            Way("all labels", full),
        ]

    compare(options, list(names.values()), ways)


def write_partial(
    folder: Path,
    source: Path,
    training: Sequence[Case],
    held_out: Sequence[Case],
    names: dict[int, str],
    reported: bool = True,
) -> Path:
    """Write a dataset whose cases keep one label each, one after the other; return its folder.

    Args:
        folder: of the new dataset.
        source: the dataset with all labels.
        training: cases that lose a label.
        held_out: cases that keep all.
        names: of the labels, by value.
        reported: dataset.json says which label was drawn.
    """
    cases = []
    for number, case in enumerate(training):
        value = sorted(names)[number % len(names)]
        image = nib.load(source / case["label"])
        array = np.asarray(image.dataobj)
        target = folder / case["label"]
        target.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array * (array == value), image.affine), target)
        cases.append({**case, "annotated": [names[value]]} if reported else case)
    return write_dataset(folder, source, cases, held_out)


if __name__ == "__main__":
    main()

"""Leave out the cases of a dataset in which some label was not drawn: does a training need them?

    .venv/bin/python scripts/benchmark/fully_annotated.py DATASET FOLDER

FOLDER becomes a dataset of links to the training cases that have all labels, with the validation cases of DATASET,
whose `dataset.json` lists the annotated labels of each case. Plan and train a bundle on either, evaluate both on the
validation cases, and compare the evaluations with `paired.py`.
"""

import argparse
import json
from pathlib import Path

from comparison import Case, write_dataset


def write_fully_annotated(folder: Path, source: Path) -> list[Case]:
    """Write the dataset; return its training cases.

    Args:
        folder: of the new dataset.
        source: the dataset with all cases.
    """
    description = json.loads((source / "dataset.json").read_text())
    names = {name for value, name in description["labels"].items() if int(value)}
    training = [case for case in description["training"] if names <= set(case.get("annotated", names))]
    write_dataset(folder, source, training, description["validation"])
    return training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, metavar="DATASET")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    print(f"{len(write_fully_annotated(options.folder, options.dataset))} training cases have all labels")


if __name__ == "__main__":
    main()

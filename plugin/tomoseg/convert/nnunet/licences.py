"""Models whose weights may not be used freely, known by the name of their dataset."""

import re

from tomoseg.core.tables import read_rows

# TotalSegmentator's tasks whose weights need a licence, with a pattern of the name of the dataset that a model was
# trained on; from its public tables `map_tasks_config.py` and `map_to_binary.py`, as of November 2026
RESTRICTED = read_rows(__package__, "restricted_models.csv")


def restricted_task(dataset: str) -> str | None:
    """Return the task of TotalSegmentator that a dataset's name stands for and that needs a licence, if any."""
    return next((row["task"] for row in RESTRICTED if re.search(row["dataset"], dataset, re.IGNORECASE)), None)

"""Options of other tools, which people type, and ours for the same."""

import csv
from collections.abc import Iterable
from importlib.resources import files


def find_counterpart(arguments: Iterable[str]) -> str:
    """Return a sentence on the first argument that is an option of another tool; "" where none is.

    Example:
        >>> from tomoseg.cli.other_tools import find_counterpart
        >>> find_counterpart(["segment", "ct.nii.gz", "--nr_thr=4"])
        "--nr_thr is TotalSegmentator's. Here: --threads."
    """
    table = csv.DictReader(files(__package__).joinpath("other_tools.csv").read_text("utf-8").splitlines())
    known = {row["option"]: row for row in table}
    found = next((name for one in arguments if (name := one.partition("=")[0]) in known), "")
    return f"{found} is {known[found]['of']}'s. Here: {known[found]['ours']}." if found else ""

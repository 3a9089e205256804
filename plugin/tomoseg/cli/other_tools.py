"""Options of other tools, which people type, and ours for the same."""

from collections.abc import Iterable

from tomoseg.core.tables import read_rows


def find_counterpart(arguments: Iterable[str]) -> str:
    """Return a sentence on the first argument that is an option of another tool; "" where none is.

    Example:
        >>> from tomoseg.cli.other_tools import find_counterpart
        >>> find_counterpart(["segment", "ct.nii.gz", "--nr_thr=4"])
        "--nr_thr is TotalSegmentator's. Here: --threads."
    """
    known = {row["option"]: row for row in read_rows(__package__, "other_tools.csv")}
    found = next((name for one in arguments if (name := one.partition("=")[0]) in known), "")
    return f"{found} is {known[found]['of']}'s. Here: {known[found]['ours']}." if found else ""

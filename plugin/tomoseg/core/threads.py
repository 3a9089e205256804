"""The number of threads that a process may use."""

import math
import os
from contextlib import suppress
from pathlib import Path

from tomoseg.core.control_groups import read_groups
from tomoseg.core.errors import UsageError


def choose_threads(asked: int | None) -> int:
    """Return the number of threads to compute with.

    Args:
        asked: by the user; None for `OMP_NUM_THREADS` of the environment, and without it for `usable_threads`.

    Raises:
        UsageError: it is below 1.
    """
    if asked is not None:
        if asked < 1:
            raise UsageError(f"--threads: expected at least 1, got {asked}")
        return asked
    wish = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list has the outermost number first
    return int(wish) if wish.isdecimal() and int(wish) else usable_threads()


def usable_threads(root: Path = Path("/")) -> int:
    """Return the cores that affinity and control groups leave to this process, rounded up.

    Args:
        root: the folder with `proc` and `sys`.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, math.ceil(min([affinity or 1, *_quotas(root)])))


def _quotas(root: Path) -> list[float]:
    """Return the cores that each control group of this process may use, its parents included (versions 1 and 2)."""
    found: list[float] = []
    for texts in read_groups("cpu", ("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"), root):
        with suppress(ValueError):  # "max"
            quota, period = map(int, " ".join(texts).split())
            if quota > 0:
                found.append(quota / period)
    return found


def stop_spinning() -> None:
    """Let OpenMP threads sleep while they wait, where torch is not imported yet and the user did not choose.

    Threads that spin take the cores from other processes, and from each other.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

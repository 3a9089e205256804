"""Reads the scans named on its input, and answers how each ended; a process of its own, because it may crash."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

# bytes above what the libraries take; an element of a DICOM file may say that it has 4 GB, for which Python reserves
# addresses, but takes no memory until the bytes are there
ADDRESS_SPACE = 12 << 30


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the C libraries print is no answer
    for line in sys.stdin:
        print(json.dumps(read(json.loads(line))), file=answers, flush=True)


def read(path: str) -> dict[str, str | float]:
    """Return how it ended ("volume", "error", or what must not be), in words, the seconds, and the bytes it took."""
    from tomoseg import TomosegError, read_volume

    limit_memory()
    before = memory(reset=True)
    start = time.perf_counter()
    try:
        volume = read_volume(path)
        reported = str(volume.array.shape)
        ended = "volume" if np.isfinite(volume.array).all() else "values that are not finite"
    except TomosegError as error:
        ended, reported = "error", str(error)
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError) or "alloc" in str(cause):
                ended = "more memory asked for than there is"
            cause = cause.__cause__
        if not reported.startswith(path) or "\n" in reported:
            ended = "an error that does not name the file in one line"
    except BaseException as error:
        ended, reported = "an error of another kind", repr(error)
    return {"ended": ended, "reported": reported, "seconds": time.perf_counter() - start, "bytes": memory() - before}


def limit_memory() -> None:
    """Let allocations fail before they starve the machine."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + ADDRESS_SPACE,) * 2)


def memory(reset: bool = False) -> int:
    """Return the peak of this process's memory in bytes, since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


if __name__ == "__main__":
    main()

"""A process that watches an archive and kills itself: `python archive_worker.py URL STATE BUNDLE MOMENT`.

Moments: "fetched", "segmented" or "stored", right after that step is noted; "fetching" and "storing", when the archive
has answered and nothing is noted yet.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from tomoseg import find_bundle
from tomoseg.batch.archive.client import Archive
from tomoseg.batch.archive.rules import Rule
from tomoseg.batch.archive.watch import watch_archive


def die(*args: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(url: str, state: str, bundle: str, moment: str) -> None:
    for step, name in (("fetching", "fetch"), ("storing", "store")):
        if moment == step:
            real = getattr(Archive, name)

            def answered(*args: Any, real: Any = real) -> None:
                real(*args)
                die()

            setattr(Archive, name, answered)
    rules = [Rule(bundle, find_bundle(bundle, trust=True).modality)]

    def on_line(line: str) -> None:
        if moment in line:
            die()

    for _ in watch_archive(url, state, rules, settle_s=0.5, on_line=on_line):
        pass


if __name__ == "__main__":
    main(*sys.argv[1:])

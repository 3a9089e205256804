"""A batch whose scans need so much memory that two at once do not fit; prints what came of each, in that order.

`python memory_worker.py OUT SCAN…`: the last scan does not fit alone either.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tomoseg import Segmenter, find_bundle, segment_batch
from tomoseg.batch.options import OutputOptions
from tomoseg.batch.progress import Progress
from tomoseg.bundle.options import RunOptions
from tomoseg.inference.segmentation import Segmentation
from tomoseg.inference.segmenter import Prepared
from tomoseg.report.records import CaseReport

NEEDED = 600_000_000  # bytes
ALLOWED = 1_000_000_000


class HungrySegmenter(Segmenter):
    """Holds a large array from the preparation to the end of the prediction of each scan."""

    tries = 0
    largest = ""

    def prepare(self, source: Any, *given: Any, **named: Any) -> Prepared:
        prepared = super().prepare(source, *given, **named)
        self.tries += 1
        prepared.data["ballast"] = np.ones((2 if str(source) == self.largest else 1) * NEEDED, np.uint8)
        return prepared

    def predict(self, prepared: Prepared, on_window: Any = None) -> Segmentation:
        tries = self.tries
        pause = threading.Event()
        for _ in range(100):  # until the next one has been tried, if there is one
            if self.tries > tries or pause.wait(0.01):
                break
        return super().predict(prepared, on_window)


class Order(Progress):
    """The names of the scans in the order in which they ended."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_case(self, report: CaseReport) -> None:
        self.names.append(Path(report.input).name)


def main() -> None:
    out, *scans = sys.argv[1:]
    segmenter = HungrySegmenter(find_bundle("hippocampus"), RunOptions(backend="torch", device="cpu"))
    segmenter(scans[0])  # all libraries have their memory now
    segmenter.largest = scans[-1]
    limit = psutil.Process().memory_info().vms + ALLOWED
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    order = Order()
    report = segment_batch(segmenter, scans, out, options=OutputOptions(measure=False), progress=order)
    cases = [[Path(case.input).name, case.status, case.reason] for case in report.cases]
    print(json.dumps({"reported": order.names, "cases": cases, "tries": segmenter.tries - 1}))


if __name__ == "__main__":
    main()

"""Progress of a batch that calls functions."""

from __future__ import annotations

from collections.abc import Callable

from tomoseg.batch.progress import Progress
from tomoseg.report.records import CaseReport


class Calls(Progress):
    """Calls a function after each case, and one for each note."""

    def __init__(
        self, on_case: Callable[[CaseReport], object] | None = None, on_note: Callable[[str], object] | None = None
    ) -> None:
        self._on_case = on_case
        self._on_note = on_note

    def on_case(self, report: CaseReport) -> None:
        if self._on_case is not None:
            self._on_case(report)

    def on_note(self, note: str) -> None:
        if self._on_note is not None:
            self._on_note(note)

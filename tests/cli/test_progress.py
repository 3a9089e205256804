"""Progress where there is no terminal: in a log, a pipe or a job's output."""

from __future__ import annotations

from pathlib import Path

import pytest

from tomoseg.cli.progress import BatchProgress
from tomoseg.core import progress


@pytest.mark.parametrize("quiet", [False, True])
def test_a_line_a_minute_says_how_far_a_scan_is(
    quiet: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with BatchProgress(quiet) as shown:
        shown.on_window(Path("scans/a.nii.gz"), 1, 9)
        assert capsys.readouterr().err == ""  # the minute is not over
        monkeypatch.setattr(progress, "LINE_EVERY_S", 0)
        shown.on_window(Path("scans/a.nii.gz"), 4, 9)
    assert capsys.readouterr().err == ("" if quiet else "scans/a.nii.gz: 4 of 9 windows\n")

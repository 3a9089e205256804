"""The command line as a user types it: in this process, or in one of its own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from support.trust import trust_named
from tomoseg.cli import main


def run_inside(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, from another folder; return its exit status and output."""
    words = ["tomoseg", *map(str, arguments)]
    printed, errors = io.StringIO(), io.StringIO()
    status: object = 0
    with (
        mock.patch.object(sys, "argv", words),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(errors),
        contextlib.chdir(cwd or Path()),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code
    return subprocess.CompletedProcess(words, int(str(status or 0)), printed.getvalue(), errors.getvalue())


def run_process(
    *arguments: object, cwd: Path | None = None, trusted: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own: what a shell sees, a start from nothing included.

    Args:
        *arguments: its words.
        cwd: the working directory.
        trusted: whether the bundles that it names may run.
        **environment: further variables.
    """
    if trusted:
        trust_named(arguments, cwd)
    return subprocess.run(
        [sys.executable, "-m", "tomoseg", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=cwd, env=os.environ | environment,
    )  # fmt: skip


def complaint(finished: subprocess.CompletedProcess[str]) -> str:
    """Return the one line on standard error."""
    assert "Traceback" not in finished.stderr
    lines = finished.stderr.strip().splitlines()
    assert len(lines) == 1, finished.stderr
    return lines[0]

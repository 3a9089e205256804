"""Disks that are full, or read-only."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def run_on_small_disk(script: str, disk: Path, kept: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script with a small file system mounted on `disk`; its files are copied to `kept` in the end.

    The script may use `$disk`, `size BYTES` and `read_only`; the arguments are `"$@"`. Skipped where this user
    may not mount.
    """
    prepared = f"""
        disk={disk}
        mount -t tmpfs -o size=16k tmpfs "$disk" || exit 77
        size() {{ mount -o remount,rw,size="$1" "$disk"; }}
        read_only() {{ mount -o remount,ro "$disk"; }}
        {script}
        cp -a "$disk/." {kept}
    """
    disk.mkdir()
    kept.mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not there (util-linux)")
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", prepared, "sh", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    return done

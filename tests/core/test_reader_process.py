"""What happens to the process that reads a scan happens to that scan only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from support.waiting import wait_until
from tomoseg import ReadOptions, TomosegError, read_with
from tomoseg.core.errors import MemoryLimitError, MissingPackageError, UsageError, VolumeError, import_package
from tomoseg.core.reader_process import _Reader, read_apart, start_reading, stop_reading


def process() -> int:
    return int(read_apart(eval, "__import__('os').getpid()"))


def _is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("array", [
    np.arange(24).reshape(2, 3, 4), np.asfortranarray(np.ones((3, 4, 5), np.float32)),
    np.arange(24).reshape(4, 6)[::2, ::3], np.float64(3), np.ones(1 << 21, np.uint8),
])  # fmt: skip
def test_arrays_come_back_as_they_are(array: Any) -> None:
    found = read_apart(np.asanyarray, array)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert found.strides == np.array(array, order="K").strides
    found += 1  # may be written to


def test_it_starts_while_others_are_imported() -> None:
    stop_reading()
    wait_until(lambda: _Reader.running is None or _Reader.running.process.poll() is not None, "its end")
    start_reading("this")
    wait_until(lambda: read_apart(eval, "'this' in __import__('sys').modules"), "the import")


ENDS = {
    "its reader crashed (SIGSEGV)": (signal.raise_signal, signal.SIGSEGV),
    "its reader crashed (SIGABRT)": (signal.raise_signal, signal.SIGABRT),
    "ended with status 7": (os._exit, 7),
    "longer than 0.2 s": (time.sleep, 1000),
    "ended by the system": (signal.raise_signal, signal.SIGKILL),
}


@pytest.mark.parametrize("reason", ENDS)
def test_the_end_of_the_process_is_an_error_of_one_scan(reason: str) -> None:
    function, given = ENDS[reason]
    kind = MemoryError if "system" in reason else VolumeError
    with read_with(ReadOptions(read_timeout=0.2)), pytest.raises(kind) as caught:
        read_apart(function, given)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert process() == process()  # the next one is served, always by one process


def test_a_process_that_ended_leaves_no_open_file() -> None:
    process()
    before = psutil.Process().num_fds()
    for _ in range(3):
        stop_reading()
        wait_until(lambda: _Reader.running is None or _Reader.running.process.poll() is not None, "its end")
        process()
    assert psutil.Process().num_fds() == before


def test_relative_paths_are_those_of_the_process_that_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").touch()
    assert read_apart(os.listdir, ".") == ["here"]


def test_errors_come_back_as_they_were_raised() -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_apart(os.listdir, "nowhere")
    with pytest.raises(
        MissingPackageError, match=r'not_there is not installed\. Install it with: pip install "tomoseg\[x\]"'
    ):
        read_apart(import_package, "not_there", "not_there", "x")
    with pytest.raises(RuntimeError, match="pickle"):
        read_apart(open, os.devnull)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to it")
def test_memory_is_limited() -> None:
    with read_with(ReadOptions(max_bytes=10**8)):
        assert len(read_apart(bytes, 10**7)) == 10**7
        with pytest.raises(MemoryLimitError, match="--max-memory"):
            read_apart(bytes, 10**9)
    with read_with(ReadOptions(max_bytes=10**8, allow_large=True)):
        assert len(read_apart(bytes, 2 * 10**8)) == 2 * 10**8
    with pytest.raises(MemoryError) as caught:
        read_apart(bytes, 10**14)
    assert not isinstance(caught.value, TomosegError)


def test_what_waits_can_be_stopped_from_another_thread() -> None:
    first = process()
    timer = threading.Timer(0.2, stop_reading)
    timer.start()
    start = time.monotonic()
    with pytest.raises(MemoryError):
        read_apart(time.sleep, 1000)
    assert time.monotonic() - start < 5
    assert process() != first


def test_it_ends_with_the_process_that_started_it() -> None:
    code = (
        "import os, sys, signal; from tomoseg.core.reader_process import read_apart\n"
        "print(read_apart(eval, \"__import__('os').getpid()\"), flush=True); os.kill(os.getpid(), int(sys.argv[1]))"
    )
    for number in (0, signal.SIGKILL, signal.SIGTERM):
        found = subprocess.run([sys.executable, "-c", code, str(int(number))], stdout=subprocess.PIPE, check=False)
        wait_until(partial(_is_gone, int(found.stdout)), "the reader process has ended")


def test_nothing_is_imported_from_the_folder_of_the_shell(tmp_path: Path) -> None:
    (tmp_path / "psutil.py").write_text("print('imported')")
    (tmp_path / "pickle.py").write_text("print('imported')")
    code = "from tomoseg.core.reader_process import read_apart; print(read_apart(len, 'four'))"
    found = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout == "4\n"
    assert found.stderr == ""


def test_a_process_that_is_forked_has_one_of_its_own() -> None:
    first = process()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if _Reader.running is not None and process() != first else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert process() == first


def test_options_are_checked() -> None:
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="read timeout"):
            ReadOptions(read_timeout=seconds)

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.waiting import wait_until
from tomoseg import TomosegError
from tomoseg.core.files import STAGING, atomic_file, private_cache, remove_stale


def test_the_file_appears_whole_and_its_folders_with_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "result.json"
    with atomic_file(path) as temporary:
        temporary.write_text("whole")
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".json"
        assert not path.exists()
    assert path.read_text() == "whole"
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]


def test_a_file_that_is_not_complete_is_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with atomic_file(path) as temporary, atomic_file(path) as other:
        assert temporary != other
        assert temporary.stat().st_mode & 0o777 == 0o600
        other.write_text("whole")
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "private").write_text("private")
    (tmp_path / "result.json").symlink_to(tmp_path / "private")
    with atomic_file(tmp_path / "result.json") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "private").read_text() == "private"
    monkeypatch.setattr("secrets.token_hex", lambda size: "guessed")
    (tmp_path / ".guessed.result.json").symlink_to(tmp_path / "private")
    with pytest.raises(TomosegError, match="cannot be written"), atomic_file(tmp_path / "result.json"):
        pytest.fail("it was opened")
    assert (tmp_path / "private").read_text() == "private"


def test_caches_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "tomoseg" / "openvino").mkdir(parents=True, mode=0o777)
    for kind in ("openvino", "inductor"):
        assert private_cache(kind).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "result.json"
    path.write_text("before")
    with pytest.raises(type(error)), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; from tomoseg.core.files import atomic_file\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "with atomic_file(Path(sys.argv[1])) as temporary: temporary.write_bytes(bytes(5000))\n"
    )
    path = tmp_path / "seg.nii"
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert f"OutputError: {path}: cannot be written" in run.stderr
    assert os.strerror(errno.EFBIG) in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with (
        pytest.raises(TomosegError, match=r"out/seg\.nii: cannot be written"),
        atomic_file(tmp_path / "out" / "seg.nii"),
    ):
        pytest.fail("there is no such folder to write to")


@pytest.mark.skipif(os.name == "nt", reason="a process that ended is gone there")
def test_what_processes_that_ended_left_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert ended.stdout is not None
    ended.stdout.read()  # it has ended, and its status is not yet read
    for pid in (ended.pid, os.getpid()):
        (tmp_path / f"{STAGING}{pid}-abc").mkdir()

    def left() -> list[str]:
        remove_stale(tmp_path)
        return [entry.name for entry in tmp_path.iterdir()]

    wait_until(lambda: len(left()) == 1, "what the process left to go")
    assert left() == [f"{STAGING}{os.getpid()}-abc"]
    assert ended.wait() == 0

"""The last lines of `segment`: how the viewers that are installed open the result."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from support.command_line import run_inside


@pytest.mark.parametrize("installed", [(), ("itksnap",), ("Slicer", "itksnap")])
def test_a_result_ends_with_the_viewers_that_are_there(
    installed: tuple[str, ...], real_scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    for name in installed:
        (tmp_path / "bin" / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    output = tmp_path / "it's here" / "seg.nii.gz"
    done = run_inside("segment", real_scan, "-o", output, "-b", "hippocampus", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    commands = [shlex.split(line.removeprefix("open it with: ")) for line in done.stdout.splitlines()[1:]]
    assert [command[0] for command in commands] == list(installed)
    for command in commands:
        if command[0] == "itksnap":
            assert command[1:] == ["-g", f"{real_scan}", "-s", f"{output}", "-l", f"{output.with_name('seg.label')}"]
            assert all(Path(name).is_file() for name in command[2::2])
        else:
            compile(command[2], "Slicer", "exec")
            assert repr(str(output)) in command[2]
            assert repr(str(output.with_name("seg.ctbl"))) in command[2]


def test_a_result_in_dicom_and_a_batch_have_no_such_lines(
    dicom_scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "itksnap").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    done = run_inside("segment", dicom_scan, "-o", tmp_path / "seg.dcm", "-b", "hippocampus", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "itksnap" not in done.stdout

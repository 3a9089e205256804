"""The command line as a user meets it: real processes, their exit status, and their output."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from typer.main import get_command

import tomoseg
from support.command_line import complaint, run_inside, run_process
from support.dicoms import write_series
from tomoseg import Grid
from tomoseg.cli import COMMANDS, app
from tomoseg.cli.terminal import print_table
from tomoseg.core.tables import read_rows

NAME = "hippocampus_mr_segmentation"


def test_segments_one_scan_into_one_file(real_scan: Path, tmp_path: Path) -> None:
    done = run_process(
        "segment", real_scan, "-o", tmp_path / "new" / "seg.nii.gz", "-b", "hippo", "--statistics", "--preview"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "anterior" in done.stdout
    assert " mL" in done.stdout
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "seg.ctbl", "seg.label", "seg.nii.gz", "seg.png", "statistics.csv",
    ]  # fmt: skip
    assert set(np.unique(np.asanyarray(nib.load(tmp_path / "new" / "seg.nii.gz").dataobj))) == {0, 1, 2}


def test_segments_a_folder_and_reports_what_failed(real_scan: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    (scans / "sub").mkdir(parents=True)
    shutil.copy(real_scan, scans / "sub" / "good.nii.gz")
    (scans / "empty.nii.gz").touch()
    done = run_inside("segment", scans, scans / "missing.nii.gz", "-o", "out", "-b", NAME, "--quiet", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    readable = "a NIfTI, NRRD or MetaImage file, or a DICOM series"
    assert [line.split(": ", 3)[2:] for line in done.stderr.splitlines()] == [
        [f"[1/3] {scans / 'empty.nii.gz'}", f"the file is empty; expected {readable}"],
        [f"[3/3] {scans / 'missing.nii.gz'}", f"no such file; expected {readable}"],
    ]
    out = tmp_path / "out"
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("[!.]*") if path.is_file())
    labels = ["sub/good_seg.ctbl", "sub/good_seg.label", "sub/good_seg.nii.gz"]
    assert written == ["report.html", "report.json", "statistics.csv", *labels]
    report = json.loads((out / "report.json").read_text())
    assert sorted(case["status"] for case in report["cases"]) == ["done", "failed", "failed"]


def test_a_single_bad_scan_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_bytes(b"no scan at all")
    done = run_inside("segment", tmp_path / "scan.nii", "-o", tmp_path / "new" / "seg.nii.gz", "-b", NAME)
    assert done.returncode == 1
    assert f"error: {tmp_path / 'scan.nii'}: expected a NIfTI volume" in complaint(done)
    assert not (tmp_path / "new").exists()


def test_one_of_several_series_is_chosen(dicom_scan: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    shutil.copytree(dicom_scan, study)
    write_series(study, np.zeros((8, 9, 4), "int16"), Grid((8, 9, 4), np.eye(4)), uid="1.2.3", names="abcd")
    uid = str(pydicom.dcmread(next(dicom_scan.iterdir())).SeriesInstanceUID)
    done = run_inside("segment", study, "-o", tmp_path / "out", "-b", NAME)
    assert done.returncode == 0, done.stderr
    assert "skipped, because they are no MR: 1.2.3 (CT, 4 images, phantom)" in done.stderr
    report = (tmp_path / "out" / "report.json").read_text()
    assert [case["series"] for case in json.loads(report)["cases"]] == [uid]
    assert "Doe" not in done.stderr + report

    done = run_inside(
        "segment", study, "-o", tmp_path / "again", "-b", NAME, "--series", uid, "--output-type", "rtstruct"
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "again").glob("study*_rtstruct.dcm"))) == 1
    assert json.loads((tmp_path / "again" / "report.json").read_text())["cases"][0]["series"] == uid


@pytest.mark.parametrize("row", read_rows("tomoseg.cli", "other_tools.csv"), ids=lambda row: row["option"])
def test_an_option_of_another_tool_is_answered_with_ours(row: dict[str, str], tmp_path: Path) -> None:
    done = run_inside("segment", "scan.nii", row["option"], "1", "-o", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert complaint(done).endswith(f"{row['option']} is {row['of']}'s. Here: {row['ours']}.")
    for option in re.findall(r"(?<!\w)--?[a-z][a-z-]*", row["ours"]):
        assert option in run_inside("segment", "--help").stdout, "it is an option of ours"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scan.nii", "-o", "out"], "expected a bundle with -b. Choose one of: head_neck_ct_segmentation (CT: "),
        (["scan.nii", "-o", "out"], f"; {NAME} (MR: anterior, posterior)"),
        (["scan.nii", "-o", "out", "-b", "liver"], "bundle 'liver': no such name or folder. Choose one of"),
        (["scan.nii", "-o", "out", "-b", "."], "not a MONAI bundle: expected a folder 'configs'"),
        (
            ["scan.nii", "-o", "out", "-b", NAME, "--device", "tpu"],
            "expected auto, cpu, cuda, cuda:N or mps, got 'tpu'",
        ),
        (["scan.nii", "-o", "out", "-b", NAME, "--device", "mps"], "device: mps asked for, but torch finds no GPU of"),
        (["scan.nii", "-o", "out", "-b", NAME, "--device", "gpu"], "device: cuda asked for, but there are 0 CUDA dev"),
        (["scan.nii", "-o", "out", "-b", NAME, "--overlap", "1.5"], "overlap: expected a share from 0 to below 1"),
        (["scan.nii", "-o", "out", "-b", NAME, "--max-memory", "much"], "max_memory: expected a size such as 6GB"),
        (
            ["scan.nii", "-o", "out", "-b", NAME, "--backend", "onnx"],
            "backend: expected auto, torch, openvino, got 'on",
        ),
        (
            ["scan.nii", "-o", "out", "-b", NAME, "--precision", "fp8"],
            "precision: expected auto, fp32, bf16, fp16, int8, got",
        ),
        (["scan.nii", "-o", "out", "-b", NAME, "--checkpoint", "none.pt"], "none.pt: no such checkpoint"),
        (["a.nii", "b.nii", "-o", "x.nii.gz", "-b", NAME], "2 scans cannot go into one file"),
        ([".", "-o", "out", "-b", NAME], "no NIfTI, NRRD or MetaImage file"),
        (["scan.nii", "-o", "out", "-b", NAME, "--output-type", "png"], "output type: expected nifti, nrrd, dicom-seg"),
        (["scan.nii", "-o", "x.nii", "-b", NAME, "--output-type", "nrrd"], "x.nii: expected a name that ends in .nrrd"),
        (["scan.nii", "-o", "out", "-b", NAME, "--clean", "all"], "clean: expected some of non-finite, denoise"),
        (["scan.nii", "-o", "taken.txt", "-b", NAME], "taken.txt: expected a folder or a name that ends in .nii.gz"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "taken.txt").touch()
    done = run_inside("segment", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in complaint(done)
    assert [path.name for path in tmp_path.iterdir()] == ["taken.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["scan.nii", "-o", "out", "-b", NAME, "--ovrlap", "0.5"],
            "No such option: --ovrlap (Possible options: --overlap)",
        ),
        (["scan.nii", "-b", NAME], "Missing option '-o' / '--output'."),
        (["scan.nii", "-o", "out", "-b", NAME, "--overlap", "half"], "Invalid value for '--overlap'"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    done = run_inside("segment", *arguments)
    assert done.returncode == 2
    assert message in complaint(done)
    assert "--help" in complaint(done)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("quiet", [False, True])
def test_a_terminal_shows_the_windows(real_scan: Path, tmp_path: Path, quiet: bool) -> None:
    import pty

    scan = nib.load(real_scan)
    # any larger, and it would be taken for a whole head
    nib.save(nib.Nifti1Image(np.tile(scan.get_fdata(dtype="float32"), (2, 1, 2)), scan.affine), tmp_path / "large.nii")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tomoseg", "segment", "large.nii", "-o", "seg.nii", "-b", NAME]
    process = subprocess.Popen(
        [*command, *(["--quiet"] if quiet else [])], cwd=tmp_path, stderr=theirs, stdout=subprocess.DEVNULL,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while part := os.read(ours, 1024):
            shown += part
    assert process.wait() == 0
    if quiet:  # two copies of a hippocampus beside each other may be reported as implausible
        assert all(line.startswith(b"tomoseg: warning: ") for line in shown.splitlines())
    else:
        assert b"large.nii" in shown
        assert re.search(rb"\d+/9 windows", re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", shown))


def test_options_reach_the_report(bundle_copy: Path, real_scan: Path, tmp_path: Path) -> None:
    weights = bundle_copy / "models" / "model.pt"
    options = ["--backend", "torch", "--precision", "bf16", "--tta", "--checkpoint", weights, "--checkpoint", weights]
    options += ["--max-memory", "8GB", "--uncertainty", "--skip-empty", "--overlap", "0.25"]
    done = run_inside("segment", real_scan, "-o", tmp_path / "out", "-b", bundle_copy, "--quiet", *options)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {
        "mni_left_seg_entropy.nii.gz",
        "mni_left_seg.ctbl",
        "mni_left_seg.label",
        "mni_left_seg.nii.gz",
        "report.html",
        "report.json",
        "statistics.csv",
    }
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["backend"], report["precision"]) == ("torch", "bf16")
    wanted = {"tta": True, "max_memory": "8GB", "uncertainty": True, "skip_empty": True, "overlap": 0.25}
    assert wanted.items() <= report["options"].items()
    memory = report["cases"][0]["stats"]
    assert 0 < memory["planned_bytes"] < 8e9
    assert 0 < memory["peak_bytes"] < 8e9


def test_ctrl_c_leaves_whole_files_and_a_report(real_scan: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    for index in range(200):
        (tmp_path / "scans" / f"{index:03}.nii.gz").symlink_to(real_scan)
    command = [sys.executable, "-m", "tomoseg", "segment", "scans", "-o", "out", "-b", NAME]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell has it ignored
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()  # the first scan is done
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "tomoseg: error: interrupted; finished results are kept"
    written = list((tmp_path / "out").glob("*.nii.gz"))
    assert 1 <= len(written) < 200
    for path in written:
        assert nib.load(path).get_fdata().any()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["interrupted"]
    assert len(report["cases"]) + len(report["pending"]) == 200
    assert "The run ended before its turn" in (tmp_path / "out" / "report.html").read_text()


def test_a_bundle_without_weights_is_wrong_usage(bundle_copy: Path, real_scan: Path, tmp_path: Path) -> None:
    (bundle_copy / "models" / "model.pt").unlink()
    done = run_inside("segment", real_scan, "-o", tmp_path / "seg.nii.gz", "-b", bundle_copy)
    assert done.returncode == 2
    assert "model.pt: no such checkpoint. Train the bundle: tomoseg train " in complaint(done)
    assert not (tmp_path / "seg.nii.gz").exists()


def test_check_reports_what_is_wrong(
    real_scan: Path, dicom_scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scans = Path("scans")
    shutil.copytree(dicom_scan, scans / "series")
    shutil.copy(real_scan, scans / "good.nii.gz")
    done = run_inside("check", scans, "--voxels")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "good.nii.gz" in done.stdout
    assert "40×56×40" in done.stdout
    assert "Doe" not in done.stdout

    (scans / "cut.nii.gz").write_bytes(real_scan.read_bytes()[:5000])
    done = run_inside("check", scans, "--voxels", "--json")
    assert done.returncode == 1
    assert done.stderr == ""
    survey = json.loads(done.stdout)
    assert not survey["ok"]
    assert {Path(scan["path"]).name: scan["readable"] for scan in survey["scans"]} == {
        "cut.nii.gz": False,
        "good.nii.gz": True,
        "series": True,
    }
    (tmp_path / "empty").mkdir()
    assert run_inside("check", tmp_path / "empty").returncode == 2
    assert run_inside("check").returncode == 2


def test_reports_what_there_is() -> None:
    assert run_process("--version").stdout == f"tomoseg {tomoseg.__version__}\n"
    for arguments in ([], ["--help"]):
        shown = run_inside(*arguments)
        assert shown.returncode == 0
        assert "segment" in shown.stdout
    listed = run_inside("bundles")
    assert listed.returncode == 0
    assert NAME[:12] in listed.stdout
    described = json.loads(run_inside("info", "hippo", "--json").stdout)
    assert described["labels"] == {"1": "anterior", "2": "posterior"}
    assert described["modality"] == "MR"
    assert "anterior" in run_inside("info").stdout
    assert run_inside("info", "liver").returncode == 2


def test_the_list_of_commands_has_whole_sentences() -> None:
    shown = "".join(run_inside("--help").stdout.split())
    assert "..." not in shown.partition("Commands:")[2]
    for command in COMMANDS:
        assert "".join(str(command.__doc__).split("\n\n")[0].split()) in shown, command.__name__


@pytest.mark.parametrize("name", sorted(get_command(app).commands))  # type: ignore[attr-defined]
def test_each_help_has_words_for_types_and_two_examples_that_can_be_typed(name: str) -> None:
    shown = run_inside(name, "--help").stdout
    assert re.findall(r"\b(TEXT|PATH|INTEGER|FLOAT|DIRECTORY|FILENAME|DIR)\b", shown) == []
    examples = shown.partition("Examples:\n")[2].splitlines()
    options = [one.name for one in get_command(app).commands[name].params if one.name != "help"]  # type: ignore[attr-defined]
    assert len(examples) == (2 if options else 1)
    for line in examples:
        program, command, *words = line.split()
        assert (program, command) == ("tomoseg", name)
        get_command(app).commands[name].make_context(name, [*words])  # type: ignore[attr-defined]
        for option, value in itertools.pairwise(words):
            choices = re.search(rf"{option} ([a-z0-9-]+(?:\|[a-z0-9-]+)+)\b", " ".join(shown.split()))
            assert choices is None or value in choices[1].split("|"), line


@pytest.mark.parametrize(("is_terminal", "columns"), [(True, 80), (False, 100)])
def test_a_table_fits_its_terminal_or_100_columns_and_breaks_no_name(
    is_terminal: bool, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    monkeypatch.setenv("TERM", "dumb")  # 80 columns, and no codes of colours
    row = ("hippocampus_mr_segmentation", "0.3.2", "word " * 40 + "parotid_right", "q" * 250)
    print_table("", ("name", "version", "labels", "path"), [row, ("head_neck", "1", "one\ntwo", "\x1b[2J")])
    lines = capsys.readouterr().out.splitlines()
    assert sum("hippocampus_mr_segmentation" in line and "0.3.2" in line for line in lines) == 1
    assert sum("parotid_right" in line for line in lines) == 1
    assert "".join(line.split("│")[3].strip() for line in lines if "q" in line) == row[3]
    assert any("two" in line and "one" not in line for line in lines)
    assert max(map(len, lines)) <= columns


def test_doctor_finds_a_sound_installation() -> None:
    done = run_inside("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "weights load" in done.stdout
    assert "bad" not in done.stdout

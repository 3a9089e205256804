"""Every command in the README and in the documentation works as written, and every link leads somewhere."""

from __future__ import annotations

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
import pytest

from support.dicoms import write_series
from support.heads import halved, mni152
from support.waiting import wait_until
from tomoseg import Grid

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# a block under this comment is not run: `<!-- not run: why -->`
NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\n+```[^\n]*\n.*?^```", re.MULTILINE | re.DOTALL)
# languages of blocks that cannot run here (a cluster), pictures, and directives of Sphinx
SHOWN = {"", "sh", "slurm", "text", "yaml", "{include}", "{toctree}"}
FIRST = ("tasks/segment.md",)  # other pages use its results
# these are run, each in a place of its own, by test_scripts.py, test_offline_kit.py and test_extras.py
ELSEWHERE = {"scripts/demo", "scripts/test", "scripts/bench", "scripts/offline_kit tomoseg_kit", "pip install ."} | {
    # by test_label_*.py, with MONAI Label in an environment of its own
    'pip install ".[label]"',
    "tomoseg label-server --studies scans -b hippocampus",
    "tomoseg label-server --studies scans -b hippocampus --app my_app",
    "tomoseg label-app my_app --versions",
    "tomoseg label-app my_app --rollback",
    "tomoseg label-app my_app --history IMAGE",
    "tomoseg label-app my_app --history IMAGE --restore 3",
}


def pages(checkout: Path) -> list[Path]:
    """Return the README and the pages of the documentation, in the order in which their commands run."""
    docs = checkout / "plugin" / "docs"
    found = [path for path in sorted(docs.rglob("*.md")) if "_generated" not in path.parts]
    first = [docs / name for name in FIRST]
    return [checkout / "README.md", *first, *(path for path in found if path not in first)]


def blocks(checkout: Path, language: str) -> list[str]:
    texts = (NOT_RUN.sub("", page.read_text()) for page in pages(checkout))
    return [block for text in texts for kind, block in FENCE.findall(text) if kind == language]


@pytest.fixture
def workplace(checkout: Path, real_scan: Path, dicom_scan: Path, tmp_path: Path) -> Path:
    """A folder with what the README's commands name."""
    (tmp_path / "scans" / "sub").mkdir(parents=True)
    for name in ("scan.nii.gz", "scans/one.nii.gz", "scans/two.nii.gz"):
        shutil.copy(real_scan, tmp_path / name)
    halved(mni152(), tmp_path / "head.nii.gz")
    shutil.copytree(dicom_scan, tmp_path / "series")
    water = np.full((64, 64, 40), -1000, np.int16)
    water[16:48, 20:44] = 0
    write_series(tmp_path / "neck_ct", water, Grid(water.shape, np.diag([-6.0, -6.0, 3.0, 1.0])))
    (tmp_path / "references").mkdir()
    image = nib.load(real_scan)
    for name in ("one", "two"):
        labels = np.zeros(image.shape, np.uint8)
        labels[12:26, 30:44, 14:26] = 1
        nib.save(nib.Nifti1Image(labels, image.affine), tmp_path / "references" / f"{name}.nii.gz")
    shutil.copytree(
        checkout / "monai_bundle", tmp_path / "monai_bundle", ignore=shutil.ignore_patterns("train", "eval")
    )
    return tmp_path


def installed() -> dict[str, str]:
    """The environment of a shell in which `tomoseg` is installed."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(command: str, workplace: Path) -> None:
    done = subprocess.run(
        ["bash", "-ec", command], cwd=workplace, env=installed(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def commands(checkout: Path) -> list[str]:
    lines = [line for block in blocks(checkout, "bash") for line in block.splitlines() if line not in ELSEWHERE]
    return list(dict.fromkeys(lines))


def test_every_block_is_run_or_marked(checkout: Path) -> None:
    for page in pages(checkout):
        kinds = {kind.split(" ")[0] for kind, _ in FENCE.findall(NOT_RUN.sub("", page.read_text()))}
        assert kinds <= SHOWN | {"bash", "python", "toml"}, page


def test_the_readme_is_short(checkout: Path) -> None:
    assert len((checkout / "README.md").read_text().splitlines()) <= 150


@pytest.mark.slow
def test_commands(checkout: Path, workplace: Path) -> None:
    found = [command for command in commands(checkout) if "Task04" not in command and " watch " not in command]
    assert len(found) >= 6
    for command in found:
        run(command, workplace)
    for name in (
        "seg.nii.gz",
        "results/one_seg.nii.gz",
        "results/two_seg.png",
        "head_results/head_seg.nii.gz",
        "by_hand.nii.gz",
        "results_monai/one_seg.nii.gz",
        "results_streamed/one_seg.nii.gz",
        "scan.seg.nrrd",
        "series_rtstruct.dcm",
        "neck_rtstruct.dcm",
        "network.onnx",
        "quick.nii.gz",
        "evaluation/evaluation.html",
    ):
        assert (workplace / name).is_file(), name


@pytest.mark.slow
def test_the_command_that_never_ends(checkout: Path, workplace: Path) -> None:
    (command,) = [command for command in commands(checkout) if " watch " in command]
    (workplace / "inbox").mkdir()
    shutil.copy(workplace / "scan.nii.gz", workplace / "inbox")
    process = subprocess.Popen(
        ["bash", "-ec", f"exec {command} --settle 1"], cwd=workplace, env=installed(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell has it ignored
    )  # fmt: skip
    result = workplace / "results" / "scan_seg.nii.gz"
    wait_until(lambda: result.is_file() or process.poll() is not None, "the scan's labels")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert result.is_file(), errors
    assert process.returncode == 130
    assert "interrupted" in errors


@pytest.mark.exhaustive
def test_training_commands(checkout: Path, workplace: Path, hippocampus_data: Path) -> None:
    """On six cases and one epoch; the shipped weights must stay unchanged."""
    target = workplace / "data" / "Task04_Hippocampus"
    listed = json.loads((hippocampus_data / "dataset.json").read_text())
    listed["training"], others = listed["training"][:6], listed["training"][6:10]
    for pair in listed["training"]:
        for path in pair.values():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(hippocampus_data / path, target / path)
    (target / "dataset.json").write_text(json.dumps(listed))
    (workplace / "more_scans").mkdir()
    for pair in others:
        shutil.copy(hippocampus_data / pair["image"], workplace / "more_scans")
    weights = workplace / "monai_bundle" / "hippocampus_mr_segmentation" / "models" / "model.pt"
    before = weights.read_bytes()

    found = [command for command in commands(checkout) if "Task04" in command]
    assert len(found) >= 2
    for command in found:
        trains = "train.json" in command or command.startswith("tomoseg train")
        run(f"{command} --epochs 1" if trains else command, workplace)
        if command.startswith("tomoseg plan"):  # epochs of a few steps, and not of a hundred
            path = workplace / "my_hippocampus" / "configs" / "train.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": 3}))
    assert (weights.parent.parent / "train" / "model.pt").is_file()
    assert (workplace / "my_hippocampus" / "models" / "model.pt").is_file()
    assert weights.read_bytes() == before


@pytest.mark.slow
def test_python(checkout: Path, workplace: Path) -> None:
    (block,) = (block for block in blocks(checkout, "python") if "monai.visualize" not in block)  # test_explain.py
    subprocess.run([sys.executable, "-c", block], cwd=workplace, check=True)
    assert (workplace / "labels" / "scan_seg.nii.gz").is_file()


def test_the_entry_point_group_is_the_one_that_is_read(checkout: Path) -> None:
    from tomoseg.bundle.registry import ENTRY_POINT_GROUP

    (block,) = blocks(checkout, "toml")
    assert f'entry-points."{ENTRY_POINT_GROUP}"' in block


def test_links_lead_somewhere(checkout: Path) -> None:
    found = pages(checkout)
    anchors = {page.resolve(): anchors_of(page) for page in found}
    for page in found:
        for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
            if target.startswith(("http://", "https://")):
                continue
            path, _, anchor = target.partition("#")
            goal = (page.parent / path).resolve() if path else page.resolve()
            assert goal.exists(), f"{page}: {target}"
            assert not anchor or anchor in anchors[goal], f"{page}: {target}"


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.slow
def test_the_documentation_builds_without_remote_parts(checkout: Path) -> None:
    """With Sphinx's own check of links; a page loads no font, script or style from elsewhere."""
    done = subprocess.run([sys.executable, checkout / "scripts" / "docs"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    built = [path for path in (checkout / "build" / "docs").rglob("*.html") if "_static" not in path.parts]
    assert len(built) > 15
    for page in built:
        text = page.read_text("utf-8")
        assert not re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"(?:https?:)?//[^\"]*", text), page
        assert not re.findall(r"<link[^>]*rel=\"stylesheet\"[^>]*href=\"(?:https?:)?//[^\"]*", text), page

"""Versions of trained weights: whole or not there, and any of them can be used again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from support.command_line import run_inside
from tomoseg.core.errors import BundleError, UsageError
from tomoseg.core.files import sha256
from tomoseg.label_app.folder import LabelApp
from tomoseg.label_app.versions import WeightsVersions


def state(value: float) -> dict[str, torch.Tensor]:
    return {"layer": torch.full((2, 3), value)}


def test_versions_are_counted_and_any_can_be_used_again(tmp_path: Path) -> None:
    weights = WeightsVersions(tmp_path / "models")
    assert (weights.current.number, weights.current.checkpoint) == (0, None)
    with pytest.raises(UsageError, match="nothing before them"):
        weights.roll_back()
    assert [weights.publish(state(one), cases=one).number for one in (1, 2)] == [1, 2]
    assert weights.numbers == [0, 1, 2]
    assert WeightsVersions(tmp_path / "models").current.number == 2  # another process sees it
    assert weights.roll_back().number == 1
    assert weights.publish(state(3)).number == 3
    assert weights.current.facts["from_version"] == 1
    assert weights.roll_back().number == 1
    assert weights.roll_back(2).number == 2
    checkpoint = weights.current.checkpoint
    assert checkpoint is not None
    assert weights.current.facts["sha256"] == sha256(checkpoint)
    torch.testing.assert_close(torch.load(checkpoint, weights_only=True), state(2))
    with pytest.raises(BundleError, match="no such version"):
        weights.roll_back(9)
    assert weights.current.number == 2


def test_a_damaged_record_is_reported(tmp_path: Path) -> None:
    weights = WeightsVersions(tmp_path)
    weights.publish(state(1))
    for content in ("", "[]", '{"version": 7}'):
        (tmp_path / "current.json").write_text(content)
        with pytest.raises(BundleError):
            _ = weights.current


@pytest.mark.slow
def test_who_is_killed_while_publishing_changes_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, torch\nfrom pathlib import Path\nfrom tomoseg.label_app.versions import WeightsVersions\n"
        "weights = WeightsVersions(Path(sys.argv[1]))\nprint('ready', flush=True)\n"
        "while True:\n    weights.publish({'layer': torch.zeros(300_000)})\n"
    )
    for wait in (0.02, 0.05, 0.11):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        weights = WeightsVersions(tmp_path)
        for number in weights.numbers[1:]:
            version = weights.version(number)
            assert version.checkpoint is not None
            assert version.facts["sha256"] == sha256(version.checkpoint)
        assert weights.current.number in weights.numbers


def test_an_app_folder_keeps_its_weights_and_refuses_others(tmp_path: Path, bundle_copy: Path) -> None:
    app = LabelApp(tmp_path / "app")
    (bundle,) = app.write([str(bundle_copy)])
    assert app.bundles == (bundle,)
    app.weights(bundle).publish(state(1))
    app.write(["hippocampus"])
    assert [one.name for one in app.bundles] == ["hippocampus_mr_segmentation"]
    app.write([str(bundle_copy)])
    assert app.weights(app.bundles[0]).current.number == 1
    compile((app.root / "main.py").read_text(), "main.py", "exec")

    with pytest.raises(UsageError, match=r"tomoseg\.json: missing\. Make the app with"):
        _ = LabelApp(tmp_path).bundles
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "main.py").write_text("class MyApp(MONAILabelApp): ...\n")
    with pytest.raises(UsageError, match="belongs to another MONAI Label app"):
        LabelApp(tmp_path / "theirs").write(["hippocampus"])
    misleading = bundle_copy.with_name("tumour_detection")
    bundle_copy.rename(misleading)
    with pytest.raises(UsageError, match="takes the name for another kind of model"):
        app.write([str(misleading)])
    (app.root / "tomoseg.json").write_text(json.dumps({"bundles": "one"}))
    with pytest.raises(BundleError):
        _ = app.bundles


def test_the_commands(tmp_path: Path) -> None:
    done = run_inside("label-app", tmp_path / "app", "-b", "hippocampus")
    assert done.returncode == 0, done.stderr
    assert "serves hippocampus_mr_segmentation" in done.stdout
    assert run_inside("label-app", tmp_path / "app", "--versions").stdout == (
        "hippocampus_mr_segmentation: version 0, the bundle's own weights, in use\n"
    )
    assert run_inside("label-app", tmp_path / "app", "--to", 1).returncode == 2
    assert run_inside("label-app", tmp_path / "app", "-b", "liver").returncode == 2

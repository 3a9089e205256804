"""The bundle in MONAI Label's own sample app, without the plugin."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support.bundles import dice
from support.label_server import require_monailabel, running_command
from support.waiting import wait_until
from tomoseg import Segmenter, read_volume

pytestmark = pytest.mark.slow
NAME = "hippocampus_mr_segmentation"


def test_the_sample_app_runs_the_bundle(bundle_folder: Path, real_scan: Path, tmp_path: Path) -> None:
    require_monailabel()
    imported = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    if imported.returncode:
        why = imported.stderr.strip().splitlines()[-1]
        pytest.skip(f"MONAI Label's sample app needs torchvision, which does not fit the CPU build of torch: {why}")
    app = tmp_path / "app"
    shutil.copytree(Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle", app)
    shutil.copytree(bundle_folder, app / "model" / NAME, ignore=shutil.ignore_patterns("train", "eval"))
    (tmp_path / "studies").mkdir()
    shutil.copy(real_scan, tmp_path / "studies" / "one.nii.gz")
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--host", "127.0.0.1"]
    # bundles that lie there, and nothing from the internet
    command += ["--conf", "models", NAME, "--conf", "zoo_source", "ngc", "--conf", "sam2", "false"]
    with running_command(command, tmp_path, str(tmp_path / "studies"), 0, {}) as server:
        info = server.client.info()
        assert info["models"][NAME]["labels"] == {"anterior": 1, "posterior": 2}
        assert NAME in info["trainers"]
        status, answer = server.ask("POST", f"/infer/{NAME}", image="one", output="json")
        if status == 500:  # the log is written a moment after the answer
            wait_until(lambda: "d[meta_key].update(d[key].meta)" in server.log.read_text(), "the known reason")
            pytest.skip(
                "MONAI Label 0.8.5 puts `image_path` beside the image, and Spacingd of MONAI 1.6.1 takes it for a "
                "dictionary: its sample app runs no bundle that has a Spacingd"
            )
        assert status == 200, answer
        path, _ = server.client.infer(NAME, "one", {})
        found = read_volume(path).array.astype(np.uint8)
    expected = Segmenter.from_bundle(NAME, device="cpu")(real_scan).labels
    assert min(dice(found, expected, label) for label in (1, 2)) > 0.99

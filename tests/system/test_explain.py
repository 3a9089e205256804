"""The page on explanations runs as written, and its maps depend on the network."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAGE = "plugin/docs/explanation/explain.md"
MAX_SAMENESS = 0.5  # rank correlation with random weights


@pytest.mark.slow  # 16 to 60 windows of a network
def test_the_page_explains_the_label(
    checkout: Path, real_scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(real_scan, tmp_path / "scan.nii.gz")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```", (checkout / PAGE).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(block, PAGE, "exec"), names)
    heat, lost, window = names["heat"], names["lost"], names["window"]
    assert heat.shape == lost.shape == tuple(window.shape[2:])
    assert heat.min() >= 0
    assert np.ptp(heat) > 0
    label = names["MeanLogits"](names["network"], window).masks[0, names["LABEL"]].numpy() > 0
    assert label.any()
    assert heat[label].mean() > heat[~label].mean()
    assert lost[label].mean() < lost[~label].mean()
    assert names["grad_cam"](names["network"]) == pytest.approx(heat)
    assert abs(names["sameness"]) < MAX_SAMENESS

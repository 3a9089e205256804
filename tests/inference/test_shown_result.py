"""What a result shows of itself in Python: one line, and in a notebook a picture."""

from __future__ import annotations

import base64
import re
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from support.thresholds import SPACING, threshold_bundle
from tomoseg import Segmenter, read_volume

HU = {"Mandible": 0.0, "<b>Parotid": 300.0}


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    folder = threshold_bundle(tmp_path_factory.mktemp("bundle") / "organs", HU)
    return Segmenter.from_bundle(folder, device="cpu", backend="torch")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    values = np.repeat(np.array([-900, 100, 400, -900], np.float32), 8).reshape(32, 1, 1)
    image = nib.Nifti1Image(np.broadcast_to(values, (32, 24, 24)).copy(), np.diag([*SPACING, 1.0]))
    nib.save(image, tmp_path / "ct.nii.gz")
    return tmp_path / "ct.nii.gz"


def test_a_result_is_one_line_and_a_picture(segmenter: Segmenter, scan: Path) -> None:
    for source in (scan, nib.load(scan), read_volume(scan)):
        result = segmenter(source)
        line = repr(result)
        assert re.fullmatch(r"Segmentation\(32×24×24: (\S+ [0-9.]+ mL(, )?){2}\)", line), line
        assert str(result) == line
        shown = result._repr_html_()
        assert "&lt;b&gt;Parotid" in shown
        assert "<b>" not in shown
        picture = Image.open(BytesIO(base64.b64decode(re.findall(r"base64,([^\"]+)", shown)[0])))
        assert len(set(picture.convert("RGB").resize((90, 40)).getdata())) > 10


def test_a_result_whose_scan_is_gone_is_a_line(segmenter: Segmenter, scan: Path, tmp_path: Path) -> None:
    result, batch = segmenter(scan), segmenter.predict(segmenter.prepare(scan))
    scan.unlink()
    assert result._repr_html_().startswith("<p>Segmentation(")
    with pytest.raises(ValueError, match="expected an image"):
        batch.save_preview(tmp_path / "x.png")
    batch.save_preview(tmp_path / "x.png", np.zeros(batch.grid.shape, np.float32))
    assert (tmp_path / "x.png").stat().st_size > 1000

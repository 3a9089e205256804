"""What a result shows of itself in Python: one line, and in a notebook a picture."""

from __future__ import annotations

import base64
import pickle
import re
import sys
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
    noisy = values + np.random.default_rng(0).normal(0, 5, (32, 24, 24)).astype(np.float32)
    image = nib.Nifti1Image(noisy, np.diag([*SPACING, 1.0]))
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


def test_a_result_goes_into_other_processes(segmenter: Segmenter, scan: Path) -> None:
    """Without the segmenter's networks and locks."""
    for source in (scan, read_volume(scan)):
        result = segmenter(source)
        copy = pickle.loads(pickle.dumps(result))
        np.testing.assert_array_equal(copy.labels, result.labels)
        assert copy._repr_html_() == result._repr_html_()


def test_a_result_whose_scan_is_gone_is_a_line(segmenter: Segmenter, scan: Path, tmp_path: Path) -> None:
    result, batch = segmenter(scan), segmenter.predict(segmenter.prepare(scan))
    scan.unlink()
    assert result._repr_html_().startswith("<p>Segmentation(")
    with pytest.raises(ValueError, match="expected an image"):
        batch.save_preview(tmp_path / "x.png")
    batch.save_preview(tmp_path / "x.png", np.zeros(batch.grid.shape, np.float32))
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_a_viewer_in_a_notebook_has_names_and_colours(segmenter: Segmenter, scan: Path) -> None:
    pytest.importorskip("ipyniivue")
    result = segmenter(scan)
    widget = result.view()
    assert widget.opts.is_radiological_convention
    assert not result.view(neurological=True).opts.is_radiological_convention
    labels = widget.volumes[1].colormap_label
    assert labels.labels == ["background", *result.names.values()]
    assert labels.lut == [0, 0, 0, 0, *(part for one in result.label_table for part in (*one.colour, 255))]
    np.testing.assert_array_equal(nib.load(widget.volumes[1].path).get_fdata(), result.labels)
    np.testing.assert_allclose(nib.load(widget.volumes[0].path).get_fdata(), nib.load(scan).get_fdata())


def test_without_the_viewer_there_is_a_line_of_advice(
    segmenter: Segmenter, scan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = segmenter(scan)
    monkeypatch.setattr(sys, "path", [])  # as if nothing were installed
    monkeypatch.delitem(sys.modules, "ipyniivue", raising=False)
    assert result.view() is None
    assert capsys.readouterr().out == "view: needs the package ipyniivue. Install it with: pip install ipyniivue\n"

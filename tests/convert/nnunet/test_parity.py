"""Imported nnU-Nets give nnU-Net's own labels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from support.bundles import dice, voxels
from support.nnunet.labels import PAIRS, predict, run_nnunet, stored
from support.nnunet.models import HEAD_NECK, KINDS, write_model
from support.nnunet.scans import write_scans
from tomoseg import Segmenter
from tomoseg.convert.nnunet.bundle import import_nnunet

MAX_SHARE = 0.0005  # of the foreground
# nnU-Net adds up logits in float16 (`predicted_logits` of its predictor), which decides voxels where two labels tie:
# in small label maps more than the share; with sums in float32 its own labels differ in the same voxels
TIES = 2
HELD_OUT = 2
Models = Callable[[str], Path]
Imported = Callable[[str], Segmenter]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_scans(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Write the model of a kind, once."""
    folder = tmp_path_factory.mktemp("models")
    return functools.cache(lambda kind: write_model(KINDS[kind], folder / f"Dataset9_{kind}"))


@pytest.fixture(scope="module")
def imported(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """Import the model of a kind, once."""
    folder = tmp_path_factory.mktemp("imported")

    @functools.cache
    def segmenter(kind: str) -> Segmenter:
        if KINDS[kind].residual:
            pytest.importorskip("dynamic_network_architectures")
        return import_model(models(kind), folder / kind)

    return segmenter


def import_model(model: Path, bundle: Path) -> Segmenter:
    import_nnunet(model, bundle)
    return Segmenter.from_bundle(bundle, trust=True, device="cpu")


def assert_same(segmenter: Segmenter, scan: Path, reference: Path) -> None:
    expected = nib.load(reference)
    result = segmenter(scan)
    assert result.labels.shape == expected.shape
    np.testing.assert_allclose(result.grid.affine, expected.affine, atol=1e-3)
    labels = voxels(expected)
    foreground = np.sum((labels > 0) | (result.labels > 0))
    assert np.sum(labels != result.labels) <= max(MAX_SHARE * foreground, TIES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "scan"), [pytest.param(*pair, marks=[pytest.mark.exhaustive] * ("folds" in pair)) for pair in PAIRS]
)
def test_stored_labels(kind: str, scan: str, scans: dict[str, Path], imported: Imported) -> None:
    assert_same(imported(kind), scans[scan], stored(kind, scan))


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
def test_real_scans(
    kind: str, models: Models, imported: Imported, request: pytest.FixtureRequest, real_scan: Path, tmp_path: Path
) -> None:
    segmenter = imported(kind)
    ct = KINDS[kind].bundle == HEAD_NECK
    data: Path = request.getfixturevalue("head_neck_data" if ct else "hippocampus_data")
    cases = sorted((data / "imagesTr").glob("[!.]*.nii.gz"))[:2]
    chosen = cases if ct else [*cases, real_scan]
    jobs = [(models(kind), scan, tmp_path / f"{number}.nii.gz") for number, scan in enumerate(chosen)]
    predict(jobs, tmp_path)
    for _, scan, reference in jobs:
        assert_same(segmenter, scan, reference)


@pytest.mark.exhaustive
def test_model_that_nnunet_trained(hippocampus_data: Path, tmp_path: Path) -> None:
    run_nnunet("train.py", hippocampus_data, tmp_path / "results")
    (model,) = (tmp_path / "results").glob("Dataset*/nnUNetTrainer__*")
    held_out = sorted((hippocampus_data / "imagesTr").glob("[!.]*.nii.gz"))[-HELD_OUT:]
    jobs = [(model, scan, tmp_path / f"{number}.nii.gz") for number, scan in enumerate(held_out)]
    predict(jobs, tmp_path)
    segmenter = import_model(model, tmp_path / "bundle")
    for _, scan, reference in jobs:
        truth, labels = (voxels(nib.load(path)) for path in (hippocampus_data / "labelsTr" / scan.name, reference))
        assert min(dice(truth, labels, label) for label in (1, 2)) > 0.5
        assert_same(segmenter, scan, reference)

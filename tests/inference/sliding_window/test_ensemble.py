"""Options: mirrored predictions, several checkpoints, the entropy, and windows that need not run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from support.bundles import load_network
from tomoseg import RunOptions, Segmenter, TomosegError, find_bundle, read_volume, segment_batch
from tomoseg.batch.options import OutputOptions
from tomoseg.inference.sliding_window.ensemble import averaged
from tomoseg.inference.sliding_window.probabilities import sigmoid_entropy, softmax_entropy


def edit(bundle: Path, **entries: Any) -> None:
    path = bundle / "configs" / "inference.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def rename_labels(bundle: Path, *names: str) -> None:
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    channels = {str(index): name for index, name in enumerate(("background", *names))}
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = channels
    path.write_text(json.dumps(metadata))


@pytest.fixture(scope="module")
def network(bundle_folder: Path) -> torch.nn.Module:
    return load_network(bundle_folder, bundle_folder / "models" / "model.pt")


def test_the_mean_is_over_all_predictors_and_all_mirrorings() -> None:
    one, other = torch.nn.Conv3d(1, 2, 3, padding=1), torch.nn.Conv3d(1, 2, 3, padding=1)
    batch = torch.randn(2, 1, 6, 7, 8)
    with torch.no_grad():
        found = averaged([one, other], mirror_axes=(0, 2))(batch)
        wanted = torch.zeros_like(found)
        for axes in ([], [2], [4], [2, 4]):
            for network in (one, other):
                wanted += network(batch.flip(axes)).flip(axes) / 8
    torch.testing.assert_close(found, wanted)
    assert averaged([one]) is one


def test_mirrored_predictions_make_a_symmetric_result(real_scan: Path, tmp_path: Path) -> None:
    """A scan that is its own mirror image has mirrored labels with --tta, and not quite without."""
    scan = nib.load(real_scan)
    voxels = scan.get_fdata(dtype="float32")
    symmetric = nib.Nifti1Image(voxels + voxels[::-1], scan.affine)
    plain, averaged_over = (Segmenter.from_bundle("hippocampus", tta=tta)(symmetric).labels for tta in (False, True))
    assert plain.any()
    np.testing.assert_array_equal(averaged_over, averaged_over[::-1])
    assert (plain != plain[::-1]).any()


def test_mirroring_is_for_the_axes_that_the_bundle_declares(small_bundle: Path, real_scan: Path) -> None:
    edit(small_bundle, mirror_axes=[])
    with pytest.raises(TomosegError, match="declares no mirror_axes in its inference config, so no --tta"):
        Segmenter.from_bundle(small_bundle, tta=True)
    edit(small_bundle, mirror_axes=[3])
    with pytest.raises(TomosegError, match=r"'mirror_axes': expected some of \[0, 1, 2\], got \[3\]"):
        Segmenter.from_bundle(small_bundle, tta=True)


@pytest.mark.parametrize("names", [("anterior", "posterior"), ("left hippocampus", "hippocampus_right")])
def test_a_bundle_may_mirror_by_default(small_bundle: Path, real_scan: Path, names: tuple[str, str]) -> None:
    """Sides, too, where the network was trained on mirrored scans."""
    mirrored = Segmenter.from_bundle(small_bundle, tta=True)(real_scan).labels
    rename_labels(small_bundle, *names)
    edit(small_bundle, tta=True)
    found = {tta: Segmenter.from_bundle(small_bundle, tta=tta)(real_scan).labels for tta in (None, True, False)}
    np.testing.assert_array_equal(found[None], mirrored)
    np.testing.assert_array_equal(found[True], mirrored)
    assert (found[False] != mirrored).any()


def test_a_note_says_what_monai_leaves_out(small_bundle: Path, real_scan: Path) -> None:
    edit(small_bundle, tta=True, nnunet_windows=True, inferer={"_target_": "SimpleInferer"})
    notes = str(Segmenter.from_bundle(small_bundle)(real_scan).stats.notes)
    assert "does not average mirrored predictions; its windows are not those of nnU-Net" in notes


@pytest.mark.parametrize(("axes", "refused"), [([0], True), ([0, 1], True), ([1, 2], False)])
def test_sides_are_never_swapped(small_bundle: Path, real_scan: Path, axes: list[int], refused: bool) -> None:
    edit(small_bundle, mirror_axes=axes)
    rename_labels(small_bundle, "left hippocampus", "hippocampus_right")
    segmenter = Segmenter.from_bundle(small_bundle, tta=True)
    if refused:
        with pytest.raises(TomosegError, match="axis 0 runs from left to right, and the label 'left hippocampus' has"):
            segmenter(real_scan)
    else:
        assert segmenter(real_scan).labels.any()


@pytest.mark.parametrize("names", [("LtHippocampus", "lesion"), ("head", "rest of it")])
def test_one_label_with_a_side_by_name_or_code_is_enough(
    small_bundle: Path, real_scan: Path, names: tuple[str, str]
) -> None:
    rename_labels(small_bundle, *names)
    path = small_bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    if names[0] == "head":
        metadata["label_table"]["1"]["laterality"] = {"value": "7771000", "scheme": "SCT", "meaning": "Left"}
    path.write_text(json.dumps(metadata))
    with pytest.raises(TomosegError, match=f"the label '{names[0]}' has a side"):
        Segmenter.from_bundle(small_bundle, tta=True)(real_scan)


def test_several_checkpoints_are_averaged(small_bundle: Path, real_scan: Path, tmp_path: Path) -> None:
    shipped, changed = str(small_bundle / "models" / "model.pt"), str(tmp_path / "other.pt")
    weights = torch.load(shipped, weights_only=True)
    torch.save(weights | {"bias": weights["bias"] + torch.tensor([0, 0.1, 0])}, changed)

    def labels(*checkpoints: str) -> NDArray[Any]:
        return Segmenter.from_bundle(small_bundle, checkpoints=checkpoints)(real_scan).labels

    alone = labels()
    np.testing.assert_array_equal(labels(shipped, shipped), alone)
    assert 0 < (labels(shipped, changed) != alone).sum() < (labels(changed) != alone).sum()
    with pytest.raises(TomosegError, match=r"missing\.pt: no such checkpoint"):
        labels(shipped, "missing.pt")


def test_entropy_of_certain_and_of_undecided_scores() -> None:
    certain, undecided = torch.zeros(4, 1, 1, 1), torch.zeros(4, 1, 1, 1)
    certain[2] = 100
    for activated in (False, True):  # these are no probabilities
        assert softmax_entropy(certain, activated).item() == pytest.approx(0, abs=1e-6)
        assert softmax_entropy(undecided, activated).item() == pytest.approx(1)
    assert sigmoid_entropy(undecided, activated=False).item() == pytest.approx(1)
    assert sigmoid_entropy(torch.full((4, 1, 1, 1), -100.0), activated=False).item() == pytest.approx(0, abs=1e-6)
    assert softmax_entropy(torch.zeros(1, 1, 1, 1), activated=False).item() == 0


def test_a_threshold_next_to_0_is_one_of_logits(bundle_copy: Path, real_scan: Path) -> None:
    """Their sigmoid is shown, and gives the entropy; labels are where it is above a half."""
    path = bundle_copy / "configs" / "inference.json"
    steps = json.loads(path.read_text())["postprocessing"]
    change = {"_target_": "AsDiscreted", "keys": "pred", "threshold": 1e-7}
    merge = {"_target_": "tomoseg.transforms.MergeRegionsd", "keys": "pred", "labels": [3, 1, 2]}
    kept = [step for step in steps["transforms"] if step["_target_"] in ("Invertd", "SaveImaged")]
    edit(bundle_copy, postprocessing={**steps, "transforms": [kept[0], change, merge, kept[1]]})
    segmenter = Segmenter.from_bundle(bundle_copy, uncertainty=True)
    prepared = segmenter.prepare(real_scan)
    result, found = segmenter.predict(prepared), segmenter.probabilities(prepared)
    assert not result.overlapping
    expected = np.zeros(result.grid.shape)
    for region, label in zip(found, (3, 1, 2), strict=True):
        expected[region > 0.5] = label
    sure = (np.abs(found - 0.5) > 1e-4).all(axis=0)
    np.testing.assert_array_equal(result.labels[sure], expected[sure])
    assert set(np.unique(expected)) == {1, 2, 3}
    share = np.clip(found, 1e-7, 1 - 1e-7)
    entropy = -(share * np.log2(share) + (1 - share) * np.log2(1 - share)).mean(axis=0)
    assert result.entropy is not None
    np.testing.assert_allclose(result.entropy, entropy, atol=1e-2)


def test_entropy_of_scores_that_are_probabilities_already() -> None:
    certain = torch.tensor([0.0, 1.0, 0.0]).reshape(3, 1, 1, 1)
    assert softmax_entropy(certain, activated=True).item() == pytest.approx(0, abs=1e-6)
    assert softmax_entropy(certain, activated=False).item() > 0.5
    assert sigmoid_entropy(certain, activated=True).item() == pytest.approx(0, abs=1e-6)
    assert sigmoid_entropy(torch.full((3, 1, 1, 1), 0.5), activated=True).item() == pytest.approx(1)


def test_the_entropy_lies_in_the_grid_of_the_scan(network: torch.nn.Module, real_scan: Path, tmp_path: Path) -> None:
    """A crop of the network's own grid fits one window, so that one call gives all logits."""
    scan = nib.load(real_scan)
    image = scan.get_fdata(dtype="float32")
    with torch.no_grad():
        logits = network(torch.from_numpy((image - image.mean()) / image.std())[None, None])[0]
    wanted = softmax_entropy(logits, activated=True)[0].numpy()
    full = RunOptions(uncertainty=True, precision="fp32")
    segmenter = Segmenter(find_bundle("hippocampus"), full)
    result = segmenter(scan)
    assert result.entropy is not None
    np.testing.assert_allclose(result.entropy, wanted, atol=2e-3)
    assert result.entropy[result.labels > 0].mean() > 5 * np.median(result.entropy)

    fine = nib.Nifti1Image(image.repeat(2, axis=2), scan.affine @ np.diag([1, 1, 0.5, 1]))
    assert segmenter(fine).entropy.shape == fine.shape  # type: ignore[union-attr]

    report = segment_batch(segmenter, [real_scan], tmp_path / "s.nii.gz")
    assert not report.failed
    written = nib.load(tmp_path / "s_entropy.nii.gz")
    np.testing.assert_array_equal(written.get_fdata(dtype="float32"), result.entropy)
    np.testing.assert_array_equal(written.affine, scan.affine)


def test_the_entropy_is_interpolated_as_the_scores_are(small_bundle: Path, real_scan: Path) -> None:
    """On a scan of another spacing: the network's own entropy map, interpolated the plain way."""
    scan = nib.load(real_scan)
    coarse = nib.Nifti1Image(scan.get_fdata(dtype="float32")[:, :, ::2], scan.affine @ np.diag([1, 1, 2, 1]))
    segmenter = Segmenter.from_bundle(small_bundle, uncertainty=True)
    entropy = segmenter(coarse).entropy
    assert entropy is not None
    data = segmenter._pipeline.prepare(read_volume(coarse))
    network_grid = nib.Nifti1Image(np.asarray(data["image"][0]), np.asarray(data["image"].affine))
    path = small_bundle / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["preprocessing"]["transforms"] = [
        step for step in config["preprocessing"]["transforms"] if step["_target_"] != "NormalizeIntensityd"
    ]
    path.write_text(json.dumps(config))
    own = Segmenter.from_bundle(small_bundle, uncertainty=True)(network_grid).entropy
    matrix = np.linalg.inv(network_grid.affine) @ coarse.affine
    index = np.indices(coarse.shape).reshape(3, -1)
    wanted = map_coordinates(own, matrix[:3, :3] @ index + matrix[:3, 3:], order=1, mode="nearest")
    np.testing.assert_allclose(entropy, wanted.reshape(coarse.shape), atol=1e-4)


@pytest.mark.parametrize("option", ["uncertainty", "tta"])
def test_what_needs_the_engine_is_reported(small_bundle: Path, real_scan: Path, option: str) -> None:
    path = small_bundle / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["inferer"] = {"_target_": "SliceInferer", "roi_size": [56, 40], "spatial_dim": 0}
    path.write_text(json.dumps(config))
    with pytest.raises(TomosegError, match=f"no --{option} for the inferer SliceInferer"):
        Segmenter.from_bundle(small_bundle, **{option: True})(real_scan)


def test_the_entropy_is_not_written_over_a_scan(small_bundle: Path, real_scan: Path, tmp_path: Path) -> None:
    scan = tmp_path / "a_entropy.nii.gz"
    shutil.copy(real_scan, scan)
    segmenter = Segmenter.from_bundle(small_bundle, uncertainty=True)
    with pytest.raises(TomosegError, match=r"a_entropy\.nii\.gz: the entropy would be written over it"):
        segment_batch(segmenter, [scan], tmp_path / "a.nii.gz", options=OutputOptions(overwrite=True))
    assert scan.read_bytes() == real_scan.read_bytes()


def test_windows_of_air_run_once_and_change_nothing(small_bundle: Path, real_scan: Path) -> None:
    scan = nib.load(real_scan)
    voxels = np.zeros((40, 300, 40), "float32")
    voxels[:, 100:156] = scan.get_fdata(dtype="float32")
    large = nib.Nifti1Image(voxels, scan.affine)
    every = Segmenter.from_bundle(small_bundle, backend="torch", roi=("whole",), skip_empty=False)(large)
    some = Segmenter.from_bundle(small_bundle, backend="torch", roi=("whole",), skip_empty=True)(large)
    assert every.stats.skipped_windows == 0
    assert 4 <= some.stats.skipped_windows < some.stats.windows == every.stats.windows
    np.testing.assert_array_equal(some.labels, every.labels)
    for declared in (True, False):
        edit(small_bundle, skip_empty=declared)
        as_declared = Segmenter.from_bundle(small_bundle, backend="torch", roi=("whole",))(large)
        assert (as_declared.stats.skipped_windows > 0) == declared
    asked = Segmenter.from_bundle(small_bundle, roi=("whole",), skip_empty=True)(large)
    assert asked.stats.skipped_windows == some.stats.skipped_windows


def test_the_report_counts_windows(small_bundle: Path, real_scan: Path, tmp_path: Path) -> None:
    shutil.copy(real_scan, tmp_path / "scan.nii.gz")
    report = segment_batch(Segmenter.from_bundle(small_bundle), [tmp_path / "scan.nii.gz"], tmp_path / "out")
    assert (report.cases[0].stats.windows, report.cases[0].stats.skipped_windows) == (1, 0)

"""The bundles run by `python -m monai.bundle` alone: every command, on real data, from where a person may stand."""

from __future__ import annotations

import csv
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine
from nibabel.processing import resample_from_to, resample_to_output
from scipy import ndimage

from support.bundles import (
    CASES,
    Place,
    class_metrics,
    dice,
    label_values,
    load_network,
    one_bundle,
    prediction_format,
    random_window,
    read_config,
    voxels,
)
from support.tiers import rest_exhaustive

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Segmented:
    """Scans, the labels that the bundle wrote for them, and the cases of the data among them."""

    scans: Path
    labels: Path
    cases: tuple[str, ...]

    def scan(self, name: str) -> Any:
        return nib.load(next(self.scans.glob(f"{name}.nii*")))

    def label_map(self, name: str) -> Any:
        return nib.load(self.labels / f"{name}_seg.nii.gz")


@pytest.fixture(scope="module")
def scans(data: Path, cases: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first cases unchanged, the first one with other axes, and the second one oblique and anisotropic."""
    folder = tmp_path_factory.mktemp("scans")
    for case in cases:
        shutil.copy(data / "imagesTr" / f"{case}.nii.gz", folder)
    nib.save(_with_axes(nib.load(data / "imagesTr" / f"{cases[0]}.nii.gz"), "PIL"), folder / "reoriented.nii.gz")
    nib.save(_oblique(data / "imagesTr" / f"{cases[1]}.nii.gz"), folder / "oblique.nii")
    return folder


@pytest.fixture(scope="module")
def segmented(place: Place, scans: Path, cases: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Segmented:
    output = tmp_path_factory.mktemp("labels")
    place.run(
        *("run", "--config_file", place.configs("inference")),
        *("--dataset_dir", str(scans), "--output_dir", str(output)),
        scratch=output,
    )
    return Segmented(scans, output, cases)


@one_bundle
def test_inference_writes_uint8_labels_in_each_scans_own_grid(place: Place, segmented: Segmented) -> None:
    names = [*segmented.cases, "reoriented", "oblique"]
    assert sorted(path.name for path in segmented.labels.iterdir()) == sorted(f"{name}_seg.nii.gz" for name in names)
    expected = {int(label) for label in prediction_format(place.bundle)["channel_def"]}
    for name in names:
        scan, labels = segmented.scan(name), segmented.label_map(name)
        assert labels.shape == scan.shape
        np.testing.assert_allclose(labels.affine, scan.affine, atol=1e-4)
        assert labels.get_data_dtype() == np.uint8
        assert set(np.unique(voxels(labels))) == expected


@one_bundle
def test_inference_gives_the_same_labels_with_any_order_of_the_axes(segmented: Segmented) -> None:
    straight = segmented.label_map(segmented.cases[0])
    turned = _with_axes(segmented.label_map("reoriented"), "".join(nib.aff2axcodes(straight.affine)))
    np.testing.assert_array_equal(voxels(turned), voxels(straight))


@one_bundle
def test_inference_on_an_oblique_anisotropic_scan_finds_what_the_expert_drew(
    place: Place, data: Path, segmented: Segmented
) -> None:
    labels = segmented.label_map("oblique")
    expert = _oblique(data / "labelsTr" / f"{segmented.cases[1]}.nii.gz", order=0)
    assert expert.shape == labels.shape
    straight, drawn = (
        segmented.label_map(segmented.cases[1]),
        nib.load(data / "labelsTr" / f"{segmented.cases[1]}.nii.gz"),
    )
    for label in label_values(place.bundle):
        found = dice(voxels(labels), voxels(expert), label)
        assert found > max(0.5, 0.85 * dice(voxels(straight), voxels(drawn), label))


@one_bundle
def test_evaluation_scores_what_inference_writes(
    place: Place, data: Path, segmented: Segmented, tmp_path: Path
) -> None:
    printed = place.call(
        *("run", "--config_file", place.configs("evaluate"), "--dataset_dir", str(data)),
        *("--datalist", f"$@cases[:{CASES}]", "--output_dir", str(tmp_path / "scores")),
    )
    for name in ("val_mean_dice", *class_metrics(place.bundle), "val_hausdorff95_mm"):
        assert f"{name}: " in printed
    _check_scores(place.bundle, data, segmented, tmp_path / "scores")


@one_bundle
@pytest.mark.parametrize(
    "overlays",
    rest_exhaustive([("evaluate", "multi_gpu_evaluate"), ("train", "evaluate", "multi_gpu_evaluate")]),
    ids="+".join,
)
def test_two_processes_score_what_one_does(
    place: Place, data: Path, segmented: Segmented, overlays: tuple[str, ...], tmp_path: Path
) -> None:
    printed = place.run(
        *("run", "--config_file", place.configs(*overlays), "--dataset_dir", str(data)),
        *("--datalist", f"$@cases[:{CASES}]", "--output_dir", str(tmp_path / "scores")),
        scratch=tmp_path,
        processes=2,
    )
    assert printed.count("Epoch[1] Metrics") == 1, "only the first process reports"
    _check_scores(place.bundle, data, segmented, tmp_path / "scores")


@pytest.mark.exhaustive
def test_evaluation_runs_as_an_overlay_of_training(
    place: Place, data: Path, segmented: Segmented, tmp_path: Path
) -> None:
    place.call(
        *("run", "--config_file", place.configs("train", "evaluate"), "--dataset_dir", str(data)),
        *("--datalist", f"$@cases[:{CASES}]", "--output_dir", str(tmp_path / "scores")),
    )
    _check_scores(place.bundle, data, segmented, tmp_path / "scores")


def test_training_saves_weights_that_inference_loads(place: Place, data: Path, tmp_path: Path) -> None:
    _train(place, data, 1, tmp_path)


@one_bundle
def test_two_processes_train_together(place: Place, data: Path, tmp_path: Path) -> None:
    _train(place, data, 2, tmp_path)


def _train(place: Place, data: Path, processes: int, tmp_path: Path) -> None:
    """Train for one epoch; check the weights, and that the shipped ones stay unchanged."""
    shipped = _digest(place.bundle / "models" / "model.pt")
    few = ("--steps", "2") if "steps" in read_config(place.bundle, "train") else ()
    arguments = (
        *("run", "--config_file", place.configs("train", *(["multi_gpu_train"] if processes > 1 else []))),
        *("--dataset_dir", str(data), "--ckpt_dir", str(tmp_path / "weights"), "--epochs", "1", "--val_interval", "1"),
        *("--train_cases", f"$@cases[:{2 * processes}]", "--val_cases", f"$@cases[4:{4 + 2 * processes - 1}]"),
        *("--batch_size", "1", *few),
    )
    printed = place.call(*arguments) if processes == 1 else place.run(*arguments, scratch=tmp_path, processes=processes)
    assert printed.count("Epoch[1] Metrics") == 1, "only the first process reports"
    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == ["model.pt", "model_best.pt"]
    initial = load_network(place.bundle, place.bundle / "models" / "model.pt").state_dict()
    for name in ("model.pt", "model_best.pt"):
        trained = load_network(place.bundle, tmp_path / "weights" / name).state_dict()
        assert any(not torch.equal(trained[key], initial[key]) for key in trained)
    assert _digest(place.bundle / "models" / "model.pt") == shipped


def test_a_copy_elsewhere_runs_and_leaves_nothing_but_its_results(
    bundle: Path, segmented: Segmented, tmp_path: Path
) -> None:
    folder = tmp_path / "a copy (elsewhere)"
    shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns("eval", "train"))
    names = (segmented.cases[0], "reoriented")
    (folder / "scans").mkdir()
    for name in names:
        shutil.copy(segmented.scans / f"{name}.nii.gz", folder / "scans")
    before = set(folder.rglob("*"))
    (tmp_path / "scratch").mkdir()
    Place(folder, folder).run(
        *("run", "--config_file", "configs/inference.json", "--dataset_dir", "scans"), scratch=tmp_path / "scratch"
    )
    written = {path for path in folder.rglob("*") if path.is_file()} - before
    assert written == {folder / "eval" / f"{name}_seg.nii.gz" for name in names}
    for path in written:
        np.testing.assert_array_equal(voxels(nib.load(path)), voxels(nib.load(segmented.labels / path.name)))


def test_metadata_is_valid(place: Place, schema_file: Path, tmp_path: Path) -> None:
    shutil.copy(schema_file, tmp_path / "schema.json")
    printed = place.call(
        *("verify_metadata", "--meta_file", place.path("configs/metadata.json")),
        *("--filepath", str(tmp_path / "schema.json")),
    )
    assert "metadata is verified with no error" in printed


def test_network_does_what_the_metadata_says(place: Place, tmp_path: Path) -> None:
    printed = place.call(
        *("verify_net_in_out", "--net_id", "network_def", "--config_file", place.configs("inference")),
        *("--meta_file", place.path("configs/metadata.json")),
    )
    assert "data shape of network is verified with no error" in printed


@one_bundle
@pytest.mark.parametrize(
    "options", rest_exhaustive([(), ("--key_in_ckpt", "model", "--use_trace", "true")]), ids=["script", "trace"]
)
def test_torchscript_export_gives_the_networks_scores(place: Place, options: tuple[str, ...], tmp_path: Path) -> None:
    _export(place, "ckpt_export", tmp_path / "model.ts", *options)
    window = random_window(place.bundle)
    with torch.no_grad():
        expected = load_network(place.bundle, place.bundle / "models" / "model.pt")(window)
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(window), expected, rtol=1e-4, atol=1e-4)  # type: ignore[no-untyped-call]


@one_bundle
@pytest.mark.parametrize(
    "options",
    rest_exhaustive([(), ("--use_trace", "true", "--converter_kwargs", "{'external_data': False}")]),
    ids=["plain", "one-file"],
)
def test_onnx_export_gives_the_networks_scores(place: Place, options: tuple[str, ...], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    _export(place, "onnx_export", tmp_path / "model.onnx", *options)
    if options:
        assert not list(tmp_path.glob("*.data")), "a second copy of the weights is left behind"
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    window = random_window(place.bundle)
    (scores,) = session.run(None, {session.get_inputs()[0].name: window.numpy()})
    with torch.no_grad():
        expected = load_network(place.bundle, place.bundle / "models" / "model.pt")(window)
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-3, atol=1e-3)


def _export(place: Place, command: str, target: Path, *options: str) -> None:
    place.call(
        *(command, "--net_id", "network_def", "--filepath", str(target), "--config_file", place.configs("inference")),
        *("--ckpt_file", place.path("models/model.pt"), "--meta_file", place.path("configs/metadata.json")),
        *options,
    )


def _check_scores(bundle: Path, data: Path, segmented: Segmented, folder: Path) -> None:
    """Compare the tables of an evaluation with Dice computed here, from the label maps that inference wrote.

    A label that was not drawn in a case has no score there.
    """
    with (folder / "val_mean_dice_raw.csv").open() as file:
        table = {Path(row["filename"]).name.removesuffix(".nii.gz"): row for row in csv.DictReader(file)}
    assert sorted(table) == sorted(segmented.cases)
    pairs = {case: (segmented.label_map(case), nib.load(data / "labelsTr" / f"{case}.nii.gz")) for case in table}
    expected, distances = (
        np.array([[score(*pairs[case], label) for label in label_values(bundle)] for case in segmented.cases])
        for score in (_dice, _hausdorff95_mm)
    )
    columns = [f"class{index}" for index in range(expected.shape[1])]
    written = [[float(table[case][column]) for column in columns] for case in segmented.cases]
    np.testing.assert_allclose(written, expected, atol=1e-5)
    metrics = dict(line.split(",") for line in (folder / "metrics.csv").read_text().splitlines())
    assert float(metrics["val_mean_dice"]) == pytest.approx(np.nanmean(expected, axis=1).mean(), abs=1e-5)
    for name, scores in zip(class_metrics(bundle), expected.T, strict=True):
        assert float(metrics[name]) == pytest.approx(np.nanmean(scores), abs=1e-5)
    assert float(metrics["val_hausdorff95_mm"]) == pytest.approx(np.nanmean(distances, axis=1).mean(), abs=1e-3)
    for name in ("val_mean_dice", "val_hausdorff95_mm"):
        header = (folder / f"{name}_summary.csv").read_text().splitlines()[0]
        assert {"mean", "median", "std"} <= set(header.split(","))


def _dice(labels: Any, expert: Any, label: int) -> float:
    return dice(voxels(labels), voxels(expert), label) if (voxels(expert) == label).any() else np.nan


def _hausdorff95_mm(labels: Any, expert: Any, label: int) -> float:
    """The larger of the two 95th percentiles of the distances from one border to the other."""
    masks = [voxels(image) == label for image in (labels, expert)]
    if not masks[1].any():
        return np.nan
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in masks]
    spacing = nib.affines.voxel_sizes(expert.affine)
    ways = [ndimage.distance_transform_edt(~border, sampling=spacing) for border in borders]
    return max(float(np.percentile(ways[1][borders[0]], 95)), float(np.percentile(ways[0][borders[1]], 95)))


def _with_axes(image: Any, codes: str) -> Any:
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(codes))
    )
    return image.as_reoriented(turn)


def _oblique(path: Path, order: int = 1) -> Any:
    """The volume in a grid turned by 12 degrees, with voxels of 1 × 1.6 × 0.8 mm and the axes PIL."""
    source = nib.load(path)
    grid = resample_to_output(source, (1.0, 1.6, 0.8), order=0)
    angle = np.deg2rad(12.0)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    centre = np.eye(4)
    centre[:3, 3] = apply_affine(grid.affine, np.array(grid.shape) / 2)
    affine = centre @ turn @ np.linalg.inv(centre) @ grid.affine
    background = float(np.median(voxels(source))) if order else 0.0
    moved = resample_from_to(source, (grid.shape, affine), order=order, cval=background)
    return _with_axes(nib.Nifti1Image(voxels(moved).astype(np.float32), affine), "PIL")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""Scans of several channels: read as one from one file or several, planned, trained and segmented as any other."""

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

from support.bundles import Place, dice, parse_config, read_config, voxels
from support.stored import GRID, SHAPE, noise, save
from support.trainings import NAMES, check_data, phantom, tiny_bundle, tomoseg
from tomoseg import Segmenter, find_bundle
from tomoseg.batch.cases import plan_cases
from tomoseg.bundle.options import RunOptions
from tomoseg.core.errors import DatasetError, UsageError, VolumeError
from tomoseg.data.datasets import read_dataset
from tomoseg.data.geometry import Grid
from tomoseg.data.inspection.training_checks import require_trainable
from tomoseg.data.read import read_volume
from tomoseg.label_app.folder import load_bundles
from tomoseg.planning.bundle_writer import plan
from tomoseg.planning.options import PlanningOptions
from tomoseg.training.cross_validation import cross_validate
from tomoseg.training.options import TrainingOptions
from tomoseg.training.training import train

CHANNELS = {"channel_names": {"0": "T2", "1": "ADC"}}
LAYOUTS = ("4d", "files", "listed")


def two_channels(seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a scan (I, J, K, 2) and its label map: the labels differ in the second channel only.

    The second has another scale, and shows something where no label is.
    """
    image, label = phantom(seed)
    rng = np.random.default_rng(seed)
    second = 500 + 100 * (label == 1) - 100 * (label == 2) + rng.normal(0, 20, label.shape)
    second[:4] += 100
    return np.stack([np.minimum(image, 1), second], -1).astype(np.float32), label


def write(root: Path, layout: str, cases: int = 6) -> Path:
    """Write a dataset whose channels are in one file ("4d"), or in files that dataset.json lists or not."""
    content: dict[str, Any] = {**CHANNELS, "labels": {str(value): name for name, value in NAMES.items()}}
    listed = []
    for case in range(cases):
        image, label = two_channels(case)
        name = f"case_{case}"
        save(root / "labelsTr" / f"{name}.nii.gz", label, Grid(label.shape, np.eye(4)))
        images = split(root / "imagesTr", name, image, layout)
        listed.append({
            "image": images[0] if len(images) == 1 else images,
            "label": f"labelsTr/{name}.nii.gz",
        })  # fmt: skip
    split(root / "imagesTs", "other", two_channels(99)[0], layout)
    if layout != "files":
        content["training"] = listed
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def split(folder: Path, name: str, image: NDArray[Any], layout: str) -> list[str]:
    """Write a scan of several channels; return its files as dataset.json lists them."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: image} if layout == "4d" else {f"{name}_{c:04}": image[..., c] for c in range(image.shape[-1])}
    for stem, array in arrays.items():
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{stem}.nii.gz")
    return [f"{folder.name}/{stem}.nii.gz" for stem in arrays]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same data in each layout, and a bundle for each."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("channels")
    for layout in LAYOUTS:
        tiny_bundle(write(folder / f"data_{layout}", layout), folder / f"bundle_{layout}", steps=30)
    return folder


@pytest.fixture(scope="module")
def place(planned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data, and bundles whose network separates the labels without a training."""
    folder = tmp_path_factory.mktemp("linear")
    network = torch.nn.Conv3d(2, 3, 1)
    with torch.no_grad():  # a label is where the first channel is bright; the second says which
        network.weight.copy_(torch.tensor([[0, 0], [4, 1], [4, -1]]).reshape(3, 2, 1, 1, 1))
        network.bias.copy_(torch.tensor([0, -8, -8]))  # type: ignore[union-attr]
    for layout in LAYOUTS:
        bundle = shutil.copytree(planned / f"bundle_{layout}", folder / f"bundle_{layout}")
        (folder / f"data_{layout}").symlink_to(planned / f"data_{layout}")
        target = {"_target_": "torch.nn.Conv3d", "in_channels": 2, "out_channels": 3, "kernel_size": 1}
        config = read_config(bundle, "inference") | {"network_def": target}
        (bundle / "configs" / "inference.json").write_text(json.dumps(config))
        (bundle / "models").mkdir(exist_ok=True)
        torch.save(network.state_dict(), bundle / "models" / "model.pt")
    return folder


def test_channels_are_read_as_one_scan_from_one_file_or_several(tmp_path: Path) -> None:
    arrays = [noise(seed=seed) for seed in range(3)]
    files = [
        save(tmp_path / f"a_000{c}{end}", array)
        for c, (array, end) in enumerate(zip(arrays, (".nii", ".nrrd", ".mha"), strict=True))
    ]
    whole = save(tmp_path / "b.nii.gz", np.stack(arrays, -1))
    vectors = save(tmp_path / "c.nii", np.stack(arrays, -1)[:, :, :, None])
    for source in (files, tuple(map(str, files)), whole, vectors, nib.load(whole), [nib.load(files[0]), *files[1:]]):
        volume = read_volume(source, channels=3)
        np.testing.assert_array_equal(volume.channels, arrays)
        assert volume.grid.matches(GRID)
        assert volume.header is None or volume.header.get_data_shape() == SHAPE


def test_what_are_no_channels_of_one_scan_is_reported_in_one_line(tmp_path: Path) -> None:
    one = save(tmp_path / "a_0000.nii", noise())
    moved = save(tmp_path / "a_0001.nii", noise(), Grid(SHAPE, np.diag([1.5, 1.5, 3.1, 1.0])))
    whole = save(tmp_path / "b.nii", np.stack([noise()] * 3, -1))
    broken = np.stack([noise("float32")] * 2, -1)
    broken[2, 3, 4, 1] = np.nan
    wanted = "expected 2 channels in one 4D NIfTI file, or in 2 files CASE_0000, CASE_0001 and so on, got"
    for source, message in (
        (one, f"{one}: {wanted} one"),
        ([one], f"{one}: {wanted} 1"),
        ([], f"scan: {wanted} 0"),
        (whole, f"{whole}: {wanted} 6×7×8×3"),
        ([one, moved], f"{moved}: expected the grid of {one}, 6×7×8, for both are channels of one scan"),
        ([one, whole], f"{whole}: expected one 3D volume, got 4D"),
        (save(tmp_path / "nan.nii", broken), f"{tmp_path / 'nan.nii'}: expected finite values, got NaN or infi"),
        (tmp_path / "nowhere.nii", f"{tmp_path / 'nowhere.nii'}: no such file"),
    ):  # fmt: skip
        with pytest.raises(VolumeError) as raised:
            read_volume(source, channels=2)
        assert str(raised.value).startswith(message)
        assert "\n" not in str(raised.value)
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(VolumeError, match="truncated"):
        read_volume(whole, channels=3)


def test_files_of_one_scan_are_one_case(tmp_path: Path) -> None:
    for name in ("a_0000", "a_0001", "b_0000", "c", "d_0000", "d_0001"):
        save(tmp_path / "in" / f"{name}.nii", noise() if name[0] != "d" else np.stack([noise()] * 2, -1))
    cases = {case.name: case.other_channels for case in plan_cases([tmp_path / "in"], tmp_path / "out", channels=2)}
    alone: tuple[Path, ...] = ()
    assert cases == {
        "a_0000.nii": (tmp_path / "in" / "a_0001.nii",),
        **{f"{name}.nii": alone for name in ("b_0000", "c", "d_0000", "d_0001")},
    }
    assert len(plan_cases([tmp_path / "in"], tmp_path / "out")) == 6


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bundle_is_planned_for_them(planned: Path, layout: str) -> None:
    bundle = planned / f"bundle_{layout}"
    image = read_config(bundle, "metadata")["network_data_format"]["inputs"]["image"]
    assert (image["num_channels"], image["channel_def"]) == (2, {"0": "T2", "1": "ADC"})
    for name in ("train", "evaluate", "inference"):
        assert read_config(bundle, name)["network_def"]["in_channels"] == 2
    described = tomoseg("info", bundle, "--json")
    assert json.loads(described.stdout)["channels"] == {"0": "T2", "1": "ADC"}
    one = read_config(planned / "bundle_4d", "plan")
    assert read_config(bundle, "plan") == one
    assert one["fingerprint"]["channels"] == ["T2", "ADC"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_segment_gives_what_stock_monai_does(place: Path, layout: str, tmp_path: Path) -> None:
    scans = place / f"data_{layout}" / "imagesTs"
    done = tomoseg("segment", scans, "-o", tmp_path / "ours", "-b", place / f"bundle_{layout}", "--preview")
    assert done.returncode == 0, done.stderr
    name = "other_seg.nii.gz" if layout == "4d" else "other_0000_seg.nii.gz"
    assert {path.name for path in (tmp_path / "ours").glob("*.nii.gz")} == {name}
    ours = nib.load(tmp_path / "ours" / name)
    assert ours.shape == two_channels(99)[1].shape
    for label in NAMES.values():
        assert dice(voxels(ours), two_channels(99)[1], label) > 0.6
    stock = Place(place / f"bundle_{layout}", place)
    options = ("--dataset_dir", str(scans), "--output_dir", str(tmp_path / "stock"))
    stock.call("run", "--config_file", stock.configs("inference"), *options)
    np.testing.assert_array_equal(voxels(nib.load(tmp_path / "stock" / name)), voxels(ours))
    report = json.loads((tmp_path / "ours" / "report.json").read_text())
    assert not report["cases"][0]["stats"]["notes"]  # a preview was drawn
    again = tomoseg("segment", scans, "-o", tmp_path / "ours", "-b", place / f"bundle_{layout}", "--preview")
    assert "done by an earlier run" in again.stdout
    if layout != "4d":  # another second channel is another scan
        copy = shutil.copytree(scans, tmp_path / "changed")
        shutil.copy(copy / "other_0000.nii.gz", copy / "other_0001.nii.gz")
        changed = tomoseg("segment", copy, "-o", tmp_path / "ours", "-b", place / f"bundle_{layout}")
        assert "the scan changed since" in changed.stdout + changed.stderr


@pytest.mark.exhaustive
def test_stock_monai_trains_and_evaluates_each_layout(planned: Path, tmp_path: Path) -> None:
    network = parse_config(planned / "bundle_4d", "inference", dataset_dir=".").get_parsed_content("network_def")
    for layout in LAYOUTS:
        stock = Place(planned / f"bundle_{layout}", planned)
        (stock.bundle / "models").mkdir(exist_ok=True)
        torch.save(network.state_dict(), stock.bundle / "models" / "model.pt")
        for config, options in (("train", ("--epochs", "1", "--steps", "2")), ("evaluate", ())):
            where = (
                ("--dataset_dir", f"data_{layout}", "--ckpt_dir", str(tmp_path / layout))
                if config == "train"
                else ("--dataset_dir", f"data_{layout}", "--output_dir", str(tmp_path / layout))
            )
            stock.run("run", "--config_file", stock.configs(config), *where, *options, scratch=tmp_path)
    scores = [(tmp_path / layout / "val_mean_dice_raw.csv").read_text().splitlines()[1:] for layout in LAYOUTS]
    values = [[line.split("\t")[1:] for line in lines] for lines in scores]
    assert values[0] == values[1] == values[2]
    assert len(values[0]) > 0


@pytest.mark.slow
def test_a_network_learns_from_both_channels(planned: Path, tmp_path: Path) -> None:
    bundle = find_bundle(shutil.copytree(planned / "bundle_files", tmp_path / "bundle"))
    options = TrainingOptions(fold=0, epochs=12, device="cpu")
    trained = train(bundle, check_data(planned / "data_files"), options, tmp_path / "out", hidden=True)
    segmenter = Segmenter(bundle, RunOptions(device="cpu", checkpoints=(str(trained.weights),)))
    found = segmenter(planned / "data_4d" / "imagesTs" / "other.nii.gz")
    assert min(dice(found.labels, two_channels(99)[1], label) for label in NAMES.values()) > 0.6


@pytest.mark.exhaustive
def test_folds_are_compared_and_the_bundle_gets_weights(planned: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(planned / "bundle_files", tmp_path / "bundle")
    options = TrainingOptions(epochs=1, device="cpu")
    result = cross_validate(
        find_bundle(bundle), check_data(planned / "data_files"), options, tmp_path / "out", hidden=True
    )
    assert result.cases == 6


def test_cleaning_sees_every_channel(place: Path, tmp_path: Path) -> None:
    image, label = two_channels(7)
    image[3, 4, 5] = np.nan
    scan = save(tmp_path / "a.nii", image, Grid(label.shape, np.eye(4)))
    bundle = find_bundle(place / "bundle_4d")
    with pytest.raises(VolumeError, match="NaN"):
        Segmenter(bundle, RunOptions(device="cpu"))(scan)
    found = Segmenter(bundle, RunOptions(device="cpu", clean=("non-finite",)))(scan)
    assert dice(found.labels, label, 1) > 0.6


def test_a_scan_of_other_channels_and_what_takes_only_one_are_refused(place: Path, tmp_path: Path) -> None:
    bundle = find_bundle(place / "bundle_4d")
    segmenter = Segmenter(bundle, RunOptions(device="cpu"))
    scan = save(tmp_path / "a.nii", noise())
    with pytest.raises(VolumeError, match="expected 2 channels in one 4D NIfTI file"):
        segmenter(scan)
    with pytest.raises(VolumeError, match="expected 2 channels, got 1"):
        segmenter(read_volume(scan))
    with pytest.raises(UsageError, match="takes 2 channels"):
        load_bundles([str(bundle.root)])
    with pytest.raises(UsageError, match="scans of one channel"):
        Segmenter(bundle, RunOptions(device="cpu", roi=("0:3,0:3,0:3",)))


def errors(dataset: Path) -> list[str]:
    """Return the faults to correct before a training, without the files."""
    with pytest.raises(DatasetError) as raised:
        require_trainable(read_dataset(dataset))
    return [line.partition(": ")[2] for line in raised.value.errors]


def test_damaged_channels_are_reported_before_a_training(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "files", cases=4)
    nib.save(
        nib.Nifti1Image(np.full((22, 24, 18), np.nan, np.float32), np.eye(4)), root / "imagesTr/case_0_0001.nii.gz"
    )
    nib.save(nib.Nifti1Image(np.zeros((22, 24, 19), np.float32), np.eye(4)), root / "imagesTr/case_1_0001.nii.gz")
    assert errors(root) == [
        "case_0_0001.nii.gz: NaN or infinity in 9504 of 9504 voxels",
        "case_1_0001.nii.gz: not on the grid of case_1_0000.nii.gz, though both are channels of one scan",
    ]
    whole = write(tmp_path / "whole", "4d", cases=4)
    image = two_channels(0)[0]
    image[0, 0, 0, 1] = np.inf
    nib.save(nib.Nifti1Image(image, np.eye(4)), whole / "imagesTr" / "case_0.nii.gz")
    nib.save(nib.Nifti1Image(image[..., 0], np.eye(4)), whole / "imagesTr" / "case_1.nii.gz")
    assert errors(whole) == [
        "channel 1: NaN or infinity in 1 of 9504 voxels",
        "expected 2 channels (T2, ADC), got 1",
    ]


def test_several_channels_of_ct_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "4d", cases=3)
    content = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**content, "channel_names": {"0": "CT", "1": "PET"}}))
    with pytest.raises(UsageError, match=r"expected one channel in CT, got 2 \(CT, PET\)"):
        plan(root, tmp_path / "bundle", PlanningOptions(4 * 10**9, "cpu"))
    assert not (tmp_path / "bundle").exists()

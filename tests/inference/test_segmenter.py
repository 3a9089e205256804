"""One scan in, one segmentation out: the bundle's own result, in the scan's own grid."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from support.bundles import Place
from support.strategies import AXIS_ORDERS
from support.tiers import rest_slow
from tomoseg import Grid, Segmenter, TomosegError, read_volume
from tomoseg.inference.localisation.locator import LocatedRegions


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_bundle("hippocampus")


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float(np.logical_and(one, other).sum()) / float(one.sum() + other.sum())


def reorient(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    return image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(tuple(codes))))


def resampled(image: nib.Nifti1Image, spacing: tuple[float, float, float]) -> nib.Nifti1Image:
    from nibabel.processing import resample_to_output

    return resample_to_output(image, spacing, order=1)


@pytest.fixture(scope="module")
def variants(real_scan: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The real scan unchanged, in another orientation, anisotropic, and oblique."""
    folder = tmp_path_factory.mktemp("variants")
    scan = nib.load(real_scan)
    angle = np.deg2rad(10)
    tilt = np.eye(4)
    tilt[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    images = {
        "plain": scan,
        "lpi": reorient(scan, "LPI"),
        "coarse_asr": reorient(resampled(scan, (1.5, 0.8, 2.0)), "ASR"),
        "oblique": nib.Nifti1Image(scan.get_fdata(dtype="float32"), tilt @ scan.affine),
    }
    for name, image in images.items():
        nib.save(image, folder / f"{name}.nii.gz")
    return sorted(folder.glob("*.nii.gz"))


@pytest.mark.parametrize("place", rest_slow(["checkout", "inside"]))
def test_equals_monai_bundle_run_voxel_by_voxel(
    place: str, variants: list[Path], bundle_folder: Path, checkout: Path, tmp_path: Path
) -> None:
    segmenter = Segmenter.from_bundle("hippocampus", precision="fp32")  # as MONAI computes
    stock = Place(bundle_folder, bundle_folder if place == "inside" else checkout)
    places = ("--dataset_dir", str(variants[0].parent), "--output_dir", str(tmp_path))
    stock.call("run", "--config_file", stock.configs("inference"), *places)
    for path in variants:
        written, ours = nib.load(tmp_path / path.name.replace(".nii.gz", "_seg.nii.gz")), segmenter(path)
        assert ours.labels.any()
        np.testing.assert_array_equal(ours.labels, np.asanyarray(written.dataobj))
        assert ours.labels.dtype == np.uint8 == written.get_data_dtype()
        np.testing.assert_allclose(written.affine, ours.grid.affine, atol=1e-4)


def test_the_result_lies_in_the_grid_of_the_scan(segmenter: Segmenter, variants: list[Path], tmp_path: Path) -> None:
    for path in variants:
        result = segmenter(path)
        assert (result.grid, result.labels.shape) == (read_volume(path).grid, result.grid.shape)
        assert result.names == {1: "anterior", 2: "posterior"}
        assert set(np.unique(result.labels)) == {0, 1, 2}
        assert 1.5 < sum(result.volumes_ml.values()) < 6
        assert result.volumes_ml["anterior"] == pytest.approx((result.labels == 1).sum() * result.grid.voxel_volume_ml)
        result.save(tmp_path / path.name)
        written = nib.load(tmp_path / path.name)
        np.testing.assert_array_equal(np.asanyarray(written.dataobj), result.labels)
        np.testing.assert_array_equal(written.affine, nib.load(path).affine)


@pytest.fixture(scope="module")
def upright(segmenter: Segmenter, real_scan: Path) -> NDArray[Any]:
    """The labels of the real scan."""
    return segmenter(real_scan).labels


@pytest.mark.parametrize("codes", AXIS_ORDERS)  # the geometry contract has all 48 orientations
def test_no_orientation_of_a_scan_changes_its_labels(
    segmenter: Segmenter, real_scan: Path, upright: NDArray[Any], codes: str
) -> None:
    turned = segmenter(reorient(nib.load(real_scan), codes))
    assert turned.grid.orientation == codes
    back = reorient(nib.Nifti1Image(turned.labels, turned.grid.affine), "RAS")
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), upright)


def test_a_mirrored_scan_gives_the_mirrored_labels(segmenter: Segmenter, real_scan: Path) -> None:
    """A left hippocampus and a right one are mirror images; a flip lost on the way would show here."""
    scan = nib.load(real_scan)
    mirrored = nib.Nifti1Image(scan.get_fdata(dtype="float32")[::-1], scan.affine)
    one, other = segmenter(scan).labels, segmenter(mirrored).labels[::-1]
    for label in (1, 2):
        assert dice(one == label, other == label) > 0.9
        assert dice(one == label, other[::-1] == label) < 0.9


def test_an_image_in_memory_gives_what_the_file_gives(segmenter: Segmenter, variants: list[Path]) -> None:
    for path in variants:
        labels = segmenter(path).labels
        np.testing.assert_array_equal(segmenter(nib.load(path)).labels, labels)
        by_itk = segmenter(sitk.ReadImage(str(path), sitk.sitkFloat32)).labels
        assert dice(by_itk > 0, labels > 0) > 0.999  # ITK keeps directions and spacing apart, so the affine is rounded


@pytest.mark.slow
def test_accuracy_on_labelled_cases(segmenter: Segmenter, hippocampus_data: Path) -> None:
    """The shipped weights saw these cases: this guards the way there and back, it does not measure accuracy."""
    cases = json.loads((hippocampus_data / "splits.json").read_text())[0]["val"]
    scores = []
    for case in cases:
        truth = np.asanyarray(nib.load(hippocampus_data / "labelsTr" / f"{case}.nii.gz").dataobj)
        labels = segmenter(hippocampus_data / "imagesTr" / f"{case}.nii.gz").labels
        scores.append([dice(labels == label, truth == label) for label in (1, 2)])
    assert np.mean(scores, axis=0).min() > 0.87


def test_threads_get_the_labels_of_their_own_scan(segmenter: Segmenter, real_scan: Path) -> None:
    scan = nib.load(real_scan)
    scans = [nib.Nifti1Image(np.roll(scan.get_fdata(dtype="float32"), shift, 1), scan.affine) for shift in (0, 2, 5)]
    alone = [segmenter(scan).labels for scan in scans]
    with ThreadPoolExecutor(3) as threads:
        together = [result.labels for result in threads.map(segmenter, scans)]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (alone[0] != alone[2]).any()


def test_what_the_caller_holds_is_not_changed(small_bundle: Path, real_scan: Path) -> None:
    edit(small_bundle, lambda config: config["preprocessing"]["transforms"][3].update(nonzero=True, channel_wise=True))
    volume = read_volume(real_scan)
    array = np.ascontiguousarray(volume.array)
    before = array.copy()
    Segmenter.from_bundle(small_bundle)(dataclasses.replace(volume, array=array))
    np.testing.assert_array_equal(array, before)


def test_a_large_scan_can_be_taken_as_it_is(segmenter: Segmenter, real_scan: Path) -> None:
    volume = read_volume(real_scan)
    long = np.pad(volume.array, ((0, 0), (0, 0), (0, 70)))  # beyond the 100 mm of a crop
    scan = nib.Nifti1Image(long, volume.grid.affine)
    result = segmenter.predict(segmenter.prepare(scan, as_it_is=True))
    assert (result.location, result.places) == (None, ())
    whole = Segmenter.from_bundle("hippocampus", device="cpu", roi=("whole",))(scan)
    np.testing.assert_array_equal(result.labels, whole.labels)


def test_overlap_reaches_the_inferer_of_the_bundle(real_scan: Path) -> None:
    large = resampled(nib.load(real_scan), (0.7, 0.7, 0.7))
    narrow = Segmenter.from_bundle("hippocampus", device="cpu", overlap=0.75)
    assert narrow.device == "cpu"
    assert dice(narrow(large).labels > 0, Segmenter.from_bundle("hippocampus")(large).labels > 0) > 0.97
    with pytest.raises(TomosegError, match="overlap: expected a share from 0 to below 1, got 1"):
        Segmenter.from_bundle("hippocampus", overlap=1)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "cuda:x"])
def test_a_device_that_is_not_there_is_reported(device: str) -> None:
    with pytest.raises(TomosegError, match="device: "):
        Segmenter.from_bundle("hippocampus", device=device)


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "configs" / "inference.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_a_folder_with_any_name_works(bundle_copy: Path, real_scan: Path, segmenter: Segmenter) -> None:
    np.testing.assert_array_equal(Segmenter.from_bundle(bundle_copy)(real_scan).labels, segmenter(real_scan).labels)


def test_labels_of_another_range_keep_their_numbers(bundle_copy: Path, real_scan: Path) -> None:
    path = bundle_copy / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = {"1": "anterior", "2": "posterior", "300": "x"}
    path.write_text(json.dumps(metadata))
    result = Segmenter.from_bundle(bundle_copy)(real_scan)
    assert result.labels.dtype == np.uint16
    assert result.volumes_ml["x"] == 0
    full = Segmenter.from_bundle("hippocampus", precision="fp32")  # no Dice was measured for x
    np.testing.assert_array_equal(result.labels, full(real_scan).labels)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "'inferer' cannot be built.*overlp": lambda config: config["inferer"].update(overlp=0.5),
    "'network_def' cannot be built.*filtrs": lambda config: config["network_def"].update(filtrs=1),
    "expected the entry 'inferer'": lambda config: config.pop("inferer"),
    "expected the entry 'preprocessing'": lambda config: config.pop("preprocessing"),
    "expected a LoadImaged, got none": lambda config: config["preprocessing"]["transforms"].pop(0),
    "expected a Compose, got Dataset": lambda config: config.update(preprocessing={"_target_": "Dataset", "data": []}),
    r"expected the weights '.*' of shape .*got .*is it the checkpoint of this bundle": lambda config: config[
        "network_def"
    ].update(filters=[8, 16, 32, 64]),
    "expected the weights '.*', got .* others without it": lambda config: config["network_def"].update(res_block=True),
}


@pytest.mark.parametrize("message", CHANGES)
def test_a_damaged_config_is_reported_in_one_line(bundle_copy: Path, message: str) -> None:
    edit(bundle_copy, CHANGES[message])
    with pytest.raises(TomosegError, match=message) as caught:
        Segmenter.from_bundle(bundle_copy)
    assert str(caught.value).startswith(str(bundle_copy))
    assert "\n" not in str(caught.value)


RUNNING: dict[str, Callable[[dict[str, Any]], object]] = {
    "expected labels in the scan's grid": lambda config: config["postprocessing"]["transforms"].pop(0),
    "expected one label map, got 3 channels": lambda config: config["postprocessing"]["transforms"].pop(1),
    "preprocessing failed": lambda config: config["preprocessing"]["transforms"].append(
        {"_target_": "SqueezeDimd", "keys": "image", "dim": 2}
    ),
    "network failed": lambda config: config["inferer"].update(roi_size=[7, 7, 7]),
}


@pytest.mark.parametrize("message", RUNNING)
def test_a_bundle_that_fails_on_a_scan_is_named(bundle_copy: Path, variants: list[Path], message: str) -> None:
    edit(bundle_copy, RUNNING[message])
    segmenter = Segmenter.from_bundle(bundle_copy)
    with pytest.raises(TomosegError, match=f"bundle {bundle_copy.name}: .*{message}|: post-processing: {message}"):
        segmenter(variants[0])


@dataclasses.dataclass
class Evil:
    """Makes a file when it is unpickled."""

    trace: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


def test_checkpoints_that_cannot_be_used(bundle_copy: Path, tmp_path: Path) -> None:
    checkpoint = bundle_copy / "models" / "model.pt"
    weights = torch.load(checkpoint, weights_only=True)

    torch.save({"model": weights, "epoch": 3}, checkpoint)  # a state dict under a name is as good as a bare one
    Segmenter.from_bundle(bundle_copy)

    torch.save({**weights, "surplus": torch.zeros(1)}, checkpoint)
    with pytest.raises(TomosegError, match=r"model\.pt: got the weights 'surplus', which the network does not have"):
        Segmenter.from_bundle(bundle_copy)

    torch.save({"model": [1, 2, 3]}, checkpoint)
    with pytest.raises(TomosegError, match=r"model\.pt: expected a state dict, or one under 'model'"):
        Segmenter.from_bundle(bundle_copy)

    torch.save(Evil(tmp_path / "trace"), checkpoint)
    with pytest.raises(TomosegError, match=r"model\.pt: not opened, for it names getattr"):
        Segmenter.from_bundle(bundle_copy)
    assert not (tmp_path / "trace").exists()

    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(TomosegError, match=r"model\.pt: cannot be read as a checkpoint"):
        Segmenter.from_bundle(bundle_copy)

    checkpoint.unlink()
    with pytest.raises(TomosegError, match=r"model\.pt: no such checkpoint\. Train the bundle: tomoseg train "):
        Segmenter.from_bundle(bundle_copy)


def test_a_label_that_the_metadata_leaves_out_is_still_counted_and_written(
    bundle_copy: Path, real_scan: Path, tmp_path: Path
) -> None:
    path = bundle_copy / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = {"0": "background", "2": "posterior"}
    path.write_text(json.dumps(metadata))
    result = Segmenter.from_bundle(bundle_copy)(real_scan)
    assert result.names == {1: "label 1", 2: "posterior"}
    assert min(result.volumes_ml.values()) > 1
    result.save(tmp_path / "seg.seg.nrrd")
    np.testing.assert_array_equal(read_volume(tmp_path / "seg.seg.nrrd").array, result.labels)


def one_of_each(bundle: Path, kind: str) -> Segmenter:
    """A segmenter whose scans are streamed, run by MONAI, or streamed with post-processing by MONAI."""
    if kind == "dense":
        edit(bundle, lambda config: config.update(inferer={"_target_": "SimpleInferer"}))
        edit(bundle, lambda config: config["preprocessing"]["transforms"].append(DIVISIBLE))
    if kind == "thick":
        step = {"_target_": "tomoseg.transforms.ResampleToSpacingd", "keys": "image", "spacing": [1.1, 1, 1.4]}
        edit(bundle, lambda config: config["preprocessing"]["transforms"].__setitem__(2, step | {"max_anisotropy": 0}))
        edit(bundle, lambda config: config["inferer"].update(roi_size=[24, 32, 24]))
        edit(bundle, lambda config: config.update(nnunet_windows=True))
    if kind == "rest":
        largest = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred"}
        edit(bundle, lambda config: config["postprocessing"]["transforms"].insert(2, largest))
    return Segmenter.from_bundle(bundle, device="cpu")


DIVISIBLE = {"_target_": "DivisiblePadd", "keys": "image", "k": 16}


@pytest.mark.parametrize("kind", ["streamed", "dense", "rest"])
def test_a_prepared_scan_is_not_changed(small_bundle: Path, variants: list[Path], kind: str) -> None:
    segmenter = one_of_each(small_bundle, kind)
    for path in variants:
        prepared = segmenter.prepare(path)
        keys, image = set(prepared.data), prepared.image.as_tensor().clone()
        probabilities = segmenter.probabilities(prepared)
        first, second = segmenter.predict(prepared), segmenter.predict(prepared)
        np.testing.assert_array_equal(first.labels, second.labels)
        np.testing.assert_array_equal(segmenter.probabilities(prepared), probabilities)
        assert set(prepared.data) == keys
        assert torch.equal(prepared.image.as_tensor(), image)
        assert first.stats.backend == ("torch" if kind == "dense" else segmenter.backend)
        assert first.stats.precision == "fp32"
        assert ("run by MONAI itself" in str(first.stats.notes)) == (kind == "dense")


@pytest.mark.parametrize("kind", ["streamed", "dense", "thick"])
def test_probabilities_are_those_that_the_labels_are_made_of(
    bundle_copy: Path, variants: list[Path], kind: str
) -> None:
    segmenter = one_of_each(bundle_copy, kind)
    for path in variants:
        prepared = segmenter.prepare(path)
        result = segmenter.predict(prepared)
        found = segmenter.probabilities(prepared)
        assert found.shape == (3, *result.grid.shape)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
        sure = np.abs(np.diff(np.sort(found, axis=0)[-2:], axis=0)[0]) > 1e-3
        assert sure.mean() > 0.99
        np.testing.assert_array_equal(found.argmax(axis=0)[sure], result.labels[sure])


def test_probabilities_of_a_part_are_a_part_of_all(segmenter: Segmenter, variants: list[Path]) -> None:
    for path in variants:
        prepared = segmenter.prepare(path)
        if max(np.subtract(prepared.image.shape[1:], (40, 56, 40))) > 0:
            continue  # more than a window holds
        box = tuple(slice(size // 3, size // 2 + 1) for size in prepared.grid.shape)
        affine = prepared.grid.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [side.start for side in box]
        part = Grid([side.stop - side.start for side in box], affine)
        whole = segmenter.probabilities(prepared)[(slice(None), *box)]
        np.testing.assert_allclose(segmenter.probabilities(prepared, part), whole, atol=1e-5)


def test_probabilities_of_a_part_of_a_large_scan(real_scan: Path) -> None:
    """One window is run for it, and in its middle finds what all windows find together."""
    scan = nib.load(real_scan)
    large = nib.Nifti1Image(np.tile(scan.get_fdata(dtype="float32"), (1, 2, 1)), scan.affine)
    segmenter = Segmenter.from_bundle("hippocampus", device="cpu", roi=("whole",), backend="torch")
    prepared = segmenter.prepare(large)
    runs: list[int] = []
    hook = segmenter.networks[0].register_forward_hook(lambda *_: runs.append(1))
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ (17, 53, 17)
    part = segmenter.probabilities(prepared, Grid((6, 6, 6), affine))
    assert len(runs) == 1
    whole = segmenter.probabilities(prepared)
    hook.remove()
    assert len(runs) > 2
    assert (part.argmax(axis=0) != whole[:, 17:23, 53:59, 17:23].argmax(axis=0)).mean() < 0.05


def test_no_probabilities_of_a_scan_of_which_crops_are_segmented(segmenter: Segmenter, real_scan: Path) -> None:
    prepared = dataclasses.replace(segmenter.prepare(real_scan), located=LocatedRegions((), None))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only crops of this scan are segmented; prepare them with as_it_is=True"):
        segmenter.probabilities(prepared)


def test_threads_preprocess_volumes_of_their_own(small_bundle: Path, variants: list[Path]) -> None:
    """Also while MONAI's Invertd, which stops what the preprocessing records, is at work on another scan."""
    segmenter = one_of_each(small_bundle, "dense")
    alone = [segmenter(path).labels for path in variants]
    with ThreadPoolExecutor(4) as threads:
        together = [result.labels for result in threads.map(segmenter, variants * 2)]
    for one, other in zip(alone * 2, together, strict=True):
        np.testing.assert_array_equal(one, other)

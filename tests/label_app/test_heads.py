"""Whole heads for annotators: served, scored, clicked and trained on by their crops, as everywhere else."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage

from support.bundles import dice
from support.heads import halved, mni152, moved
from tomoseg import Grid, Segmentation, Volume, find_bundle, read_volume
from tomoseg.bundle.options import RunOptions
from tomoseg.core.errors import UsageError, VolumeError
from tomoseg.core.files import sha256
from tomoseg.data.nifti import write_label_map, write_map
from tomoseg.inference.localisation.crop import nearest
from tomoseg.inference.localisation.locator import LocatedRegions, Locator, RegionCrop
from tomoseg.label_app.activelearning.acquisition_scores import KINDS, find_crops
from tomoseg.label_app.answer import describe_answer, keep_largest
from tomoseg.label_app.clicks.correction import REACH_WIDTHS, WIDTH_MM, Click, correct
from tomoseg.label_app.clicks.log_probabilities import CropProbabilities
from tomoseg.label_app.clicks.scene import Scene, look
from tomoseg.label_app.folder import LabelApp
from tomoseg.label_app.model import ServedModel
from tomoseg.label_app.trainers.training_cases import Annotated, TrainingCase, cut_crops, prepare_cases

pytestmark = pytest.mark.slow

BACK = np.array([0, 1, 2, 1, 2], np.uint8)  # what left and right are to the bundle
CPU = RunOptions(device="cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return ServedModel(find_bundle("hippocampus"), LabelApp(tmp_path_factory.mktemp("app")))


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNI152 at 2 mm."""
    return halved(mni152(), tmp_path_factory.mktemp("heads") / "head.nii.gz")


@pytest.fixture(scope="module")
def fine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNI152 at 1 mm, turned, so that its axes are not those of the crops."""
    scan = moved(read_volume(mni152()), (8.0, -6.0, 10.0), np.array([12.0, -7.0, 5.0]))
    path = tmp_path_factory.mktemp("heads") / "turned.nii.gz"
    write_map(path, scan.array, scan.grid, None)
    return path


@pytest.fixture(scope="module")
def found(model: ServedModel, head: Path) -> Segmentation:
    """What the segmenter makes of the head: four labels."""
    return model.segmenter(CPU)(head)


@pytest.fixture(scope="module")
def scene(model: ServedModel, fine: Path) -> Scene:
    scene = look(model.segmenter(CPU), fine)
    return replace(scene, result=model.labels.serve(scene.result))


def test_served_labels_are_the_segmenters_without_sides(model: ServedModel, found: Segmentation) -> None:
    served = model.labels.serve(found)
    assert set(np.unique(found.labels)) == {0, 1, 2, 3, 4}
    np.testing.assert_array_equal(served.labels, BACK[found.labels])
    assert served.names == {1: "anterior", 2: "posterior"}
    assert [label.colour for label in served.label_table] == list(map(tuple, model.labels.colours.values()))
    assert served.grid == found.grid
    reported = describe_answer(served, model.labels, 0)
    assert reported["label_names"] == {"anterior": 1, "posterior": 2}
    assert [region["name"] for region in reported["location"]["regions"]] == ["left hippocampus", "right hippocampus"]
    sides = found.volumes_ml
    assert reported["volumes_ml"]["anterior"] == pytest.approx(
        sides["left anterior"] + sides["right anterior"], abs=1e-3
    )


def test_the_largest_piece_is_one_of_each_side(model: ServedModel, found: Segmentation) -> None:
    labels = found.labels.copy()
    stray = tuple(np.argwhere(labels == 0)[0])
    labels[stray] = 3
    kept = keep_largest(replace(found, labels=labels))
    assert kept.labels[stray] == 0
    assert set(np.unique(kept.labels)) == {0, 1, 2, 3, 4}


def test_doubts_reach_client_and_log(
    model: ServedModel, head: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scan = nib.load(head)
    flipped = np.asanyarray(scan.dataobj)[:, ::-1, ::-1]
    path = tmp_path / "upside_down.nii.gz"
    nib.save(nib.Nifti1Image(np.where(flipped > 150, 0, flipped), scan.affine), path)
    scene = look(model.segmenter(CPU), path)
    warnings = describe_answer(scene.result, model.labels, 0)["warnings"]
    assert any("the MNI152 head fits badly" in warning for warning in warnings)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"upside_down.nii.gz: {warning}" for warning in warnings
    ]


@pytest.fixture(scope="module")
def crops(model: ServedModel, head: Path) -> list[Volume]:
    return find_crops(model, read_volume(head), "cpu")


def test_what_is_scored_is_what_is_segmented(model: ServedModel, found: Segmentation, crops: list[Volume]) -> None:
    for crop, place in zip(crops, found.places, strict=True):
        np.testing.assert_array_equal(crop.array, place.crop.volume.array)
        assert find_crops(model, crop, "cpu") == [crop]  # a crop is used unchanged


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_scores_as_its_crops_do(model: ServedModel, crops: list[Volume], kind: str) -> None:
    apart = [np.array(KINDS[kind](model, [crop], "cpu")) for crop in crops]
    both = np.array(KINDS[kind](model, crops, "cpu"))
    mean = np.mean(apart, axis=0)
    np.testing.assert_allclose(both, mean / np.linalg.norm(mean) if kind == "features" else mean, rtol=1e-4, atol=1e-5)
    if kind == "expected_dice":
        assert 0.5 < both < 0.99  # not the head against its mirror image, which would be found on the other side
    if kind == "features":
        assert np.dot(*apart) > 0.95  # the right one is mirrored, and so like the left one


def test_scores_near_a_place_are_those_of_the_result(model: ServedModel, scene: Scene) -> None:
    """In the frame of each crop, the right one mirrored."""
    for place in scene.result.places:
        target = place.crop.target()
        assert target is not None
        middle = [(side.start + side.stop) // 2 for side in target[0]]
        i, j, k = (slice(index - 14, index + 14) for index in middle)
        scores = scene.log_probabilities((i, j, k))
        wanted = scene.result.labels[i, j, k]
        assert np.count_nonzero(wanted) > 1000
        assert dice(scores.argmax(axis=0), wanted, 1) > 0.97
        assert dice(scores.argmax(axis=0), wanted, 2) > 0.97


def test_elsewhere_all_is_background(scene: Scene) -> None:
    scores = scene.log_probabilities((slice(5, 9), slice(100, 105), slice(80, 86)))
    assert scores.shape == (3, 4, 5, 6)
    assert (scores[0] == 0).all()
    assert np.isneginf(scores[1:]).all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("value", [0, 1])
def test_a_click_changes_its_own_side_near_it(scene: Scene, side: str, value: int) -> None:
    labels = scene.result.labels
    posterior = np.argwhere(labels == 2)
    middle = np.argwhere(labels > 0).mean(axis=0)
    on_side = posterior[(posterior[:, 0] < middle[0]) == (side == "left")]
    centre = on_side.mean(axis=0)
    i, j, k = (int(index) for index in on_side[np.linalg.norm(on_side - centre, axis=1).argmin()])
    begin = time.perf_counter()
    volume, clicks = scene.volume, [Click((i, j, k), value)]
    corrected = correct(labels, volume.array, volume.grid, clicks, scene.log_probabilities)
    print(f"{side} {value}: {time.perf_counter() - begin:.3f} s")
    changed = np.argwhere(corrected != labels)
    assert corrected[i, j, k] == value
    assert 0 < len(changed) < 1500
    apart_mm = np.linalg.norm((changed - (i, j, k)) * scene.volume.grid.spacing, axis=1)
    assert apart_mm.max() <= REACH_WIDTHS * WIDTH_MM
    assert set(corrected[tuple(changed.T)]) == {value}


def test_clicks_on_both_sides_are_those_on_each(scene: Scene) -> None:
    labels = scene.result.labels
    middle = np.argwhere(labels > 0).mean(axis=0)[0]
    posterior = np.argwhere(labels == 2)
    clicks = []
    for on_side in (posterior[posterior[:, 0] < middle], posterior[posterior[:, 0] > middle]):
        i, j, k = (int(index) for index in on_side[len(on_side) // 2])
        clicks.append(Click((i, j, k), 0))

    def corrected(chosen: list[Click]) -> NDArray[np.bool_]:
        changed = correct(labels, scene.volume.array, scene.volume.grid, chosen, scene.log_probabilities)
        return np.asarray(changed != labels)

    np.testing.assert_array_equal(corrected(clicks), corrected(clicks[:1]) | corrected(clicks[1:]))


def test_a_label_where_the_model_does_not_look_is_refused(scene: Scene) -> None:
    assert isinstance(scene.log_probabilities, CropProbabilities)
    scene.log_probabilities.require_inside([Click((5, 100, 80), 0)])  # it is background there already
    before = scene.result.labels
    after = correct(before, scene.volume.array, scene.volume.grid, [Click((5, 100, 80), 0)], scene.log_probabilities)
    np.testing.assert_array_equal(after, before)
    with pytest.raises(UsageError, match=r"click at \[5, 100, 80\]: expected a voxel of .*left hippocampus \["):
        scene.log_probabilities.require_inside([Click((5, 100, 80), 1)])


class KeptLocator(Locator):
    """Looks once for the head of each scan."""

    kept: ClassVar[dict[str, LocatedRegions | None]] = {}

    def locate(self, scan: Volume) -> LocatedRegions | None:
        if scan.source not in self.kept:
            self.kept[scan.source] = super().locate(scan)
        return self.kept[scan.source]


@pytest.fixture(scope="module")
def locator(model: ServedModel) -> Locator:
    return KeptLocator(model.bundle)


def make_cases(
    model: ServedModel,
    locator: Locator,
    image: Path,
    labels: NDArray[np.uint8],
    folder: Path,
    info: list[dict[str, object]] | None = None,
) -> tuple[list[TrainingCase], list[str]]:
    folder.mkdir(exist_ok=True)
    write_label_map(folder / "annotated.nii.gz", labels, read_volume(image).grid, None)
    pairs = [Annotated("head", image, folder / "annotated.nii.gz", info)]
    return prepare_cases(pairs, model.labels, locator, folder)


def crop_to_scan(place: RegionCrop, crop: Grid, voxels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return where voxels of a crop are among those of the scan, by way of mm."""
    in_frame = apply_affine(crop.affine, voxels)
    in_scan = apply_affine(np.linalg.inv(place.crop.frame), in_frame)
    return np.asarray(apply_affine(np.linalg.inv(place.crop.scan.affine), in_scan))


def test_a_head_is_trained_on_by_its_crops(
    model: ServedModel, locator: Locator, scene: Scene, fine: Path, tmp_path: Path
) -> None:
    cases, errors = make_cases(model, locator, fine, scene.result.labels, tmp_path)
    assert errors == []
    assert [case.image_id for case in cases] == ["head", "head"]
    margin = np.array([6, 6, 5])
    images, labels = [], []
    for case, place in zip(cases, scene.result.places, strict=True):
        image, label = read_volume(case.image), read_volume(case.label)
        assert image.grid == label.grid
        np.testing.assert_allclose(image.grid.affine[:3, :3], np.eye(3), atol=1e-5)
        box = np.argwhere(label.array > 0)
        np.testing.assert_array_equal(box.min(axis=0), margin)
        np.testing.assert_array_equal(image.array.shape - box.max(axis=0) - 1, margin)
        # each voxel is what the scan has there
        at = crop_to_scan(place, image.grid, np.argwhere(np.ones(image.array.shape)))
        i, j, k = np.floor(at + 0.5).astype(int).T
        np.testing.assert_array_equal(label.array.ravel(), scene.result.labels[i, j, k])
        wanted = ndimage.map_coordinates(scene.volume.array, at.T, order=1, mode="nearest")
        np.testing.assert_allclose(image.array.ravel(), wanted, atol=1e-3 * wanted.max())
        # it is the crop that inference laid round the structure, to a few voxels, and the network finds the same in it
        settled = place.crop.volume
        shift = settled.grid.index_to(image.grid)[:3, 3]
        np.testing.assert_allclose(shift, np.round(shift), atol=1e-3)
        assert np.abs(shift).max() <= 3
        segmenter = model.segmenter(CPU)
        inference = nearest(segmenter(settled).labels, settled.grid, image.grid)
        again = segmenter(image).labels
        assert min(dice(again, inference, 1), dice(again, inference, 2)) > 0.95
        images.append(image.array)
        labels.append(label.array)
    # MNI152 is symmetric, so its mirrored right side is its left one
    sizes = np.minimum(labels[0].shape, labels[1].shape)
    part = tuple(slice(size) for size in sizes)
    assert np.corrcoef(images[0][part].ravel(), images[1][part].ravel())[0, 1] > 0.97
    assert dice(labels[0][part].astype(np.uint8), labels[1][part].astype(np.uint8), 1) > 0.9


def test_a_side_without_labels_is_left_out(
    model: ServedModel, locator: Locator, head: Path, found: Segmentation, tmp_path: Path
) -> None:
    (_, right), _ = make_cases(model, locator, head, BACK[found.labels], tmp_path / "both")
    one_side = np.where(found.labels > 2, BACK[found.labels], 0).astype(np.uint8)
    (alone,), _ = make_cases(model, locator, head, one_side, tmp_path / "right")
    assert (sha256(alone.image), sha256(alone.label)) == (sha256(right.image), sha256(right.label))


def test_names_with_sides_are_the_bundles_own(
    model: ServedModel, locator: Locator, head: Path, found: Segmentation, tmp_path: Path
) -> None:
    """What `tomoseg segment` writes may be loaded and saved as an annotation, too."""
    info: list[dict[str, object]] = [{"name": name, "idx": value} for value, name in found.names.items()]
    sided, _ = make_cases(model, locator, head, found.labels.astype(np.uint8), tmp_path / "sided", info)
    plain, _ = make_cases(model, locator, head, BACK[found.labels], tmp_path / "plain")
    for one, other in zip(sided, plain, strict=True):
        assert sha256(one.label) == sha256(other.label)
        assert sha256(one.image) == sha256(other.image)


def test_a_head_that_was_not_found_is_no_training_case(locator: Locator, head: Path, found: Segmentation) -> None:
    located = locator.locate(read_volume(head))
    assert located is not None
    assert locator.localisation is not None
    with pytest.raises(VolumeError, match=r"that the MNI152 head fits, got one with a similarity of 0\.03"):
        list(cut_crops(BACK[found.labels], replace(located, similarity=0.03), locator.localisation))


def test_a_label_far_from_its_structure_is_reported(
    model: ServedModel, locator: Locator, head: Path, found: Segmentation, tmp_path: Path
) -> None:
    labels = BACK[found.labels]
    labels[10, 50, 40] = 1
    with pytest.raises(UsageError, match=r"head: left out: 1 of \d+ voxels of the left hippocampus lie far from where"):
        make_cases(model, locator, head, labels, tmp_path)


def test_crops_and_bundles_that_take_all_as_it_is_are_unchanged(
    model: ServedModel, locator: Locator, real_scan: Path, tmp_path: Path
) -> None:
    volume = read_volume(real_scan)
    assert find_crops(model, volume, "cpu") == [volume]
    result = model.segmenter(CPU)(volume)
    assert (result.places, result.location) == ((), None)
    served = model.labels.serve(result)
    np.testing.assert_array_equal(served.labels, result.labels)
    (case,), _ = make_cases(model, locator, real_scan, result.labels.astype(np.uint8), tmp_path)
    np.testing.assert_array_equal(read_volume(case.image).array, volume.array)
    np.testing.assert_array_equal(read_volume(case.label).array, result.labels)

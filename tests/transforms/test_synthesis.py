"""Images drawn from label maps: each parameter has its range, and labels, image and sides stay together."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor, list_data_collate
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from tomoseg.core.errors import UsageError, VolumeError
from tomoseg.transforms import RandImageFromLabelsd
from tomoseg.transforms.synthesis import DrawnParameters, _field, _slices

Labels = NDArray[np.int16]

DRAWS = 2000
PAIRS = [(2, 41), (17, 53)]
MIDDLE, SKULL = 24, 515
CLASSES = {2: 1, 17: 2, MIDDLE: 3, 41: 4, 53: 5}
SWAPPED = np.array([0, 4, 5, 3, 1, 2])
STILL: dict[str, Any] = {
    "rotation": (0, 0),
    "scale": (1, 1),
    "shear": (0, 0),
    "translation": (0, 0),
    "elastic_sd": (0, 0),
}
PLAIN: dict[str, Any] = {"sds": (0, 0), "bias_sd": (0, 0), "gamma_sd": 0, "noise_sd": (0, 0), "anisotropic": (1, 1)}
LOOKS = {0: 0, 2: 200, 17: 150, MIDDLE: 50, SKULL: 255}
EXACT = {**PLAIN, "isotropic": (1, 1), "contrasts": [LOOKS], "contrast_prob": 1, "contrast_sd": 0}


def head(shape: tuple[int, int, int] = (41, 48, 44)) -> Labels:
    """Two hemispheres that differ, each with a small structure, in fluid and a skull, (1, I, J, K)."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    labels = np.select([radius > 0.95, radius > 0.85, radius > 0.7], [0, SKULL, MIDDLE], np.where(x < 0, 2, 41))
    labels[(x + 0.3) ** 2 + (y - 0.1) ** 2 + z**2 < 0.04] = 17
    labels[(x - 0.3) ** 2 + (y - 0.2) ** 2 + (z - 0.1) ** 2 < 0.03] = 53
    return labels.astype(np.int16)[None]


def drawer(seed: int = 0, **options: Any) -> RandImageFromLabelsd:
    transform = RandImageFromLabelsd("label", CLASSES, pairs=PAIRS, **options)
    transform.set_random_state(seed)
    return transform


def draw(transform: RandImageFromLabelsd, labels: Any) -> tuple[NDArray[np.float32], Labels, DrawnParameters]:
    drawn = transform({"label": labels})
    assert transform.drawn is not None
    return drawn["image"][0].numpy(), drawn["label"][0].numpy(), transform.drawn


def unmirrored(labels: Labels, **options: Any) -> tuple[NDArray[np.float32], Labels, DrawnParameters]:
    """The first draw that is not mirrored."""
    transform = drawer(**options)
    while True:
        drawn = draw(transform, labels)
        if not drawn[-1].mirrored:
            return drawn


@pytest.fixture(scope="module")
def draws() -> list[DrawnParameters]:
    transform = drawer(contrasts=[LOOKS], contrast_prob=0.3, removals=[[SKULL], [SKULL, MIDDLE]], removal_prob=0.4)
    return [transform.randomize(516) for _ in range(DRAWS)]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("rotation", -20, 20),
        ("scale", 0.8, 1.2),
        ("shear", -0.015, 0.015),
        ("translation", -30, 30),
        ("elastic_sd", 0, 2.2),
        ("bias_sd", 0, 0.33),
        ("noise_sd", 0, 0.03),
    ],
)
def test_parameters_are_uniform_in_their_range(
    draws: list[DrawnParameters], name: str, low: float, high: float
) -> None:
    values = np.array([getattr(drawn, name) for drawn in draws])
    assert low <= values.min() < low + 0.01 * (high - low)
    assert high >= values.max() > high - 0.01 * (high - low)
    np.testing.assert_allclose(values.mean(0), (low + high) / 2, atol=0.04 * (high - low))
    np.testing.assert_allclose(values.std(0), (high - low) / np.sqrt(12), rtol=0.06)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (lambda d: d.mirrored, 0.5),
        (lambda d: d.contrast == 0, 0.3),
        (lambda d: bool(d.removed), 0.4),
        (lambda d: d.removed == (SKULL, MIDDLE), 0.2),
        (lambda d: d.means[0] <= 15, 0.4 + 0.6 * (0.8 + 0.2 * 15 / 255)),
        (lambda d: np.ptp(d.slices) == 0, 0.5),
        (lambda d: d.slices.argmax() == 2 and np.ptp(d.slices) > 0, 1 / 6),
        (lambda d: d.slices.max() > 5, 0.25),
    ],
    ids=["mirror", "contrast", "removal", "one removal", "dark air", "isotropic", "one axis", "thick slices"],
)
def test_choices_have_their_share(
    draws: list[DrawnParameters], share: Callable[[DrawnParameters], bool], expected: float
) -> None:
    assert np.mean([share(drawn) for drawn in draws]) == pytest.approx(expected, abs=0.04)


def test_the_mirror_has_its_share_and_each_axis_may_have_a_range_of_translation() -> None:
    transform = drawer(mirror_prob=0, translation=[[-1, -9, 0], [1, 9, 0]])
    drawn = [transform.randomize(60) for _ in range(200)]
    assert not any(one.mirrored for one in drawn)
    farthest = np.abs([one.translation for one in drawn]).max(0)
    assert (farthest <= [1, 9, 0]).all()
    assert (farthest >= [0.9, 8, 0]).all()


def test_looks_are_random_or_near_the_contrast_and_the_same_on_both_sides(draws: list[DrawnParameters]) -> None:
    for left, right in PAIRS:
        assert all(d.means[left] == d.means[right] and d.sds[left] == d.sds[right] for d in draws)
    typical = np.array([d.means[17] for d in draws if d.contrast == 0])
    assert typical.mean() == pytest.approx(LOOKS[17], abs=2)
    assert typical.std() == pytest.approx(10, rel=0.1)
    free = np.array([[d.means[17], d.means[18]] for d in draws if d.contrast < 0])
    assert free.std(0) == pytest.approx([255 / np.sqrt(12)] * 2, rel=0.06)
    assert abs(np.corrcoef(free.T)[0, 1]) < 0.1
    assert np.std([d.sds[17] for d in draws]) == pytest.approx(35 / np.sqrt(12), rel=0.06)
    assert np.std(np.log([d.gamma for d in draws])) == pytest.approx(0.4, rel=0.06)
    assert all((d.thickness <= d.slices + 1e-9).all() and d.thickness.min() >= 1 for d in draws)


@pytest.mark.parametrize("spacing", [8.0, 30.0])
def test_fields_are_smooth_with_the_standard_deviation_asked_for(spacing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    fields = [_field(np.array([30, 24, 20]), np.array([1, 2, 1.5]), spacing, generator).numpy() for _ in range(400)]
    np.testing.assert_allclose(np.std(fields, axis=0), 1, atol=0.2)
    assert np.std(fields) == pytest.approx(1, abs=0.05)
    steps = np.diff(fields, axis=1)
    assert np.abs(steps).max() < 7 / spacing
    assert np.abs(np.diff(steps, axis=1)).max() < 20 / spacing**2


def test_labels_are_those_of_the_map_moved_by_the_drawn_parameters() -> None:
    labels = head()
    _, moved, drawn = unmirrored(labels, elastic_sd=(0, 0), translation=(-4, 4), shear=(-0.1, 0.1))
    one, two, three, four, five, six = drawn.shear
    matrix = np.array([[1, one, two], [three, 1, four], [five, six, 1]]) * drawn.scale
    for axis in (2, 1, 0):  # about the last axis first
        cosine, sine = np.cos(np.deg2rad(drawn.rotation[axis])), np.sin(np.deg2rad(drawn.rotation[axis]))
        about = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
        matrix = np.roll(about, (axis, axis), (0, 1)) @ matrix
    middle = (np.array(moved.shape) - 1) / 2
    voxels = np.indices(moved.shape).reshape(3, -1) - middle[:, None]
    places = np.linalg.solve(matrix, voxels) + (drawn.translation + middle)[:, None]
    expected = map_coordinates(table()[labels[0]], places, order=0).reshape(moved.shape)
    assert np.mean(moved == expected) > 0.9999  # rounding
    assert np.mean(moved == table()[labels[0]]) < 0.9


def test_the_elastic_field_moves_labels_by_its_standard_deviation() -> None:
    columns = np.broadcast_to(np.arange(48, dtype=np.int16)[:, None, None], (1, 48, 48, 48))
    options = {**STILL, "elastic_sd": (3, 3), "elastic_spacing": 8}
    transform = RandImageFromLabelsd("label", {value: value for value in range(48)}, **options).set_random_state(0)
    inside = (slice(14, 34),) * 3  # 4.7 standard deviations from the border
    draws = [draw(transform, columns) for _ in range(24)]
    moves = [(moved - columns[0])[inside] for _, moved, drawn in draws if not drawn.mirrored]
    assert np.mean(moves) == pytest.approx(0, abs=0.4)
    assert np.std(moves) == pytest.approx(3, rel=0.1)


def test_image_and_labels_are_deformed_together() -> None:
    image, classes, _ = unmirrored(head(), **EXACT, translation=(-3, 3))
    for name, mean in zip((1, 2, 3, 4, 5), (200, 150, 50, 200, 150), strict=True):
        values = image[classes == name] * 255
        assert np.median(values) == pytest.approx(mean, abs=0.5)
        assert np.mean(np.abs(values - mean) < 15) > 0.5  # mixed at the borders


def test_the_mirror_swaps_sides() -> None:
    labels = head()
    seen = set()
    for seed in range(8):
        image, classes, drawn = draw(drawer(seed, **STILL, **EXACT), labels)
        expected = table()[labels[0]]
        if drawn.mirrored:
            expected = SWAPPED[expected[::-1]]
        np.testing.assert_array_equal(classes, expected)
        means = drawn.means[labels[0]]
        np.testing.assert_allclose(image * 255, means[::-1] if drawn.mirrored else means, atol=0.01)
        seen.add(drawn.mirrored)
    assert seen == {True, False}


def test_the_mirror_swaps_sides_of_a_map_with_one_side() -> None:
    labels = np.where(head() == 2, 2, 0).astype(np.int16)
    found = {draw(drawer(seed, **STILL), labels)[1].max() for seed in range(8)}
    assert found == {1, 4}


@pytest.mark.parametrize(("removed", "gone"), [([SKULL], []), ([SKULL, MIDDLE], [3])])
def test_what_is_removed_leaves_a_background_of_zero(removed: list[int], gone: list[int]) -> None:
    labels = head()
    transform = drawer(removals=[removed], removal_prob=1, isotropic=(1, 1), anisotropic=(1, 1), **STILL)
    image, classes, drawn = draw(transform, labels)
    outside = np.isin(labels[0], [0, *removed])
    assert image[outside[::-1] if drawn.mirrored else outside].max() < 1e-3
    assert image[classes > 0].std() > 0
    assert set(np.unique(classes)) == {0, 1, 2, 3, 4, 5} - set(gone)


def test_a_coarse_voxel_is_the_mean_of_the_voxels_that_it_covers() -> None:
    labels = head((60, 60, 60))
    options = {**STILL, **EXACT, "isotropic": (3, 3), "anisotropic": (3, 3), "pixdim": (3, 3, 3)}
    image, classes, drawn = draw(drawer(seed=3, **options), labels)
    assert image.shape == classes.shape == (20, 20, 20)
    means = drawn.means[labels[0]].reshape(20, 3, 20, 3, 20, 3).mean((1, 3, 5)) / 255
    cells = table()[labels[0]][1::3, 1::3, 1::3]
    assert not drawn.mirrored
    np.testing.assert_array_equal(classes, cells)
    np.testing.assert_allclose(image, means / means.max(), atol=1e-5)


@pytest.mark.parametrize(("size", "step", "thickness"), [(64, 2.5, 2.5), (64, 2.5, 1.0), (30, 7.0, 4.0), (5, 9.0, 9.0)])
def test_slices_are_means_over_their_thickness(size: int, step: float, thickness: float) -> None:
    acquire, restore = (matrix.numpy() for matrix in _slices(size, step, thickness))
    number = max(int(size / step), 1)
    assert acquire.shape == (number, size)
    assert restore.shape == (size, number)
    np.testing.assert_allclose(acquire.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(restore.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose((acquire > 0).sum(1), min(thickness, size), atol=2)
    line = np.arange(size, dtype=np.float32)
    inside = slice(int(step / 2) + 1, size - int(step / 2) - 1)
    if number > 1:  # a ramp comes back
        np.testing.assert_allclose((restore @ acquire @ line)[inside], line[inside], atol=0.5)


def test_thick_slices_blur_their_axis_alone() -> None:
    image, _, drawn = unmirrored(head(), **{**STILL, **EXACT, "isotropic": (1, 1), "anisotropic": (8, 8)}, seed=2)
    axis = int(drawn.slices.argmax())
    assert drawn.slices[axis] == 8
    second = [np.abs(np.diff(image, 2, other)).mean() for other in range(3)]
    assert second[axis] < 0.4 * min(second[other] for other in range(3) if other != axis)


def test_the_window_is_centred_on_the_structures_and_keeps_its_place_in_the_world() -> None:
    labels = np.zeros((1, 80, 90, 70), np.int16)
    labels[0, 40:60, 50:72, 8:26] = MIDDLE
    affine = np.array([[-2, 0, 0, 7], [0, 0, 1, 5], [0, 1.5, 0, -3], [0, 0, 0, 1.0]])
    transform = drawer(spatial_size=(32, 32, 32), pixdim=(3, 3, 3), **STILL)
    drawn = transform({"label": MetaTensor(torch.from_numpy(labels), affine=torch.from_numpy(affine))})
    assert drawn["image"].shape == drawn["label"].shape == (1, 32, 32, 32)
    np.testing.assert_allclose(drawn["label"].pixdim, 3)
    np.testing.assert_array_equal(drawn["label"].affine, drawn["image"].affine)
    for values, matrix in ((labels[0], affine), (drawn["label"][0].numpy(), drawn["label"].affine.numpy())):
        middle = matrix @ [*np.argwhere(values).mean(0), 1]
        np.testing.assert_allclose(middle[:3], [-92, 21.5, 87.75], atol=3)


def test_a_seed_gives_one_image_in_a_copy_and_in_workers() -> None:
    labels = head()
    image, classes, _ = draw(drawer(7), labels)
    copy = pickle.loads(pickle.dumps(drawer(7)))
    again, same, _ = draw(copy, labels)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(classes, same)
    other, _, _ = draw(copy, labels)
    assert not np.array_equal(image, other)

    def batch(workers: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        loader = DataLoader(
            Dataset([{"label": labels}] * 2, drawer()), batch_size=2, num_workers=workers, collate_fn=list_data_collate
        )
        found: dict[str, torch.Tensor] = next(iter(loader))
        return found

    one, two = batch(1), batch(1)
    assert one["image"].shape == one["label"].shape == (2, 1, *labels.shape[1:])
    assert torch.isfinite(one["image"]).all()
    torch.testing.assert_close(one["image"], two["image"], rtol=0, atol=0)
    assert not torch.equal(one["image"][0], one["image"][1])


@pytest.mark.parametrize("kind", ["int16", "float32", "uint16", "MetaTensor"])
def test_any_type_of_label_map_gives_the_same(kind: str) -> None:
    labels = head()
    given = MetaTensor(torch.from_numpy(labels.astype(np.float32))) if kind == "MetaTensor" else labels.astype(kind)
    for one, other in zip(draw(drawer(2), labels)[:2], draw(drawer(2), given)[:2], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_config_names_it_and_a_schedule_sets_the_share_of_contrasts() -> None:
    section = {
        "_target_": "tomoseg.transforms.RandImageFromLabelsd",
        "keys": "label",
        "classes": CLASSES,
        "pairs": PAIRS,
        "contrasts": [LOOKS],
        "contrast_prob": 1.0,
    }
    parser = ConfigParser(json.loads(json.dumps({"draw": section})))
    transform = parser.get_parsed_content("draw").set_random_state(0)
    image, classes, drawn = draw(transform, head())
    assert image.dtype == np.float32
    assert set(np.unique(classes)) <= {0, *CLASSES.values()}
    assert drawn.contrast == 0
    transform.contrast_prob = 0.0
    assert all(transform.randomize(516).contrast == -1 for _ in range(20))


def test_errors_say_what_to_give() -> None:
    with pytest.raises(UsageError, match="one for each key"):
        RandImageFromLabelsd(["one", "two"], CLASSES, image_key="image")
    with pytest.raises(VolumeError, match="one channel"):
        drawer()({"label": head()[0]})
    with pytest.raises(VolumeError, match="-1"):
        drawer()({"label": head() - 1})


def table() -> NDArray[np.int16]:
    """The class of each label value."""
    classes = np.zeros(516, np.int16)
    classes[list(CLASSES)] = list(CLASSES.values())
    return classes

"""Where structures are in a whole scan: what bundles declare, what users give by hand, geometry, registration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from support.heads import mni152, moved
from support.strategies import ORIENTATIONS, grids
from tomoseg import Bundle, Grid, Segmenter, TomosegError, Volume, find_bundle, read_volume
from tomoseg.core.errors import BundleError, MissingPackageError, UsageError
from tomoseg.inference.localisation import template as template_module
from tomoseg.inference.localisation.assembly import assemble
from tomoseg.inference.localisation.crop import cut_out, head_frame, nearest, within
from tomoseg.inference.localisation.declaration import read_localisation
from tomoseg.inference.localisation.locator import Locator, parse_rois
from tomoseg.inference.localisation.raster import canonical, rotation_of
from tomoseg.inference.localisation.registration import register
from tomoseg.inference.localisation.template import Template, load_template

HIPPOCAMPI_MM = np.array([(-26.0, -22.0, -10.0, 1.0), (26.0, -22.0, -10.0, 1.0)]).T


@pytest.fixture(scope="module")
def mni() -> Template:
    return load_template("MNI152")


@pytest.fixture(scope="module")
def head() -> Volume:
    """MNI152 at 2 mm."""
    scan = read_volume(mni152())
    affine = scan.grid.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    array = np.ascontiguousarray(scan.array[::2, ::2, ::2])
    return Volume(array, Grid(array.shape, affine), "head")


def test_the_shipped_bundle_declares_both_sides() -> None:
    declared = read_localisation(find_bundle("hippocampus"))
    assert declared is not None
    assert [label.name for label in declared.label_table] == [
        "left anterior", "left posterior", "right anterior", "right posterior",
    ]  # fmt: skip
    assert [label.value for label in declared.label_table] == [1, 2, 3, 4]
    for label in declared.label_table:
        side, part = label.name.split()
        assert label.kind.value == "5366008"
        assert [code.meaning.lower() for code in label.modifiers] == [side, part]
    assert len({label.colour for label in declared.label_table}) == 4
    left, right = declared.regions
    assert (left.mirrored, right.mirrored) == (False, True)
    assert left.box_mm[0][0] == -right.box_mm[1][0]


def set_in(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(declared: Any) -> None:
        for key in keys[:-1]:
            declared = declared[key]
        declared[keys[-1]] = value

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        lambda declared: declared.pop("crop_mm"),
        lambda declared: declared["labels"].pop("4"),
        set_in("regions", value=[]),
        set_in("regions", 0, "labels", value={"1": 3, "2": 2}),
        set_in("regions", 0, "box_mm", value=[[0, 0, 0], [10, -10, 10]]),
        set_in("regions", 0, "volume_ml", value=[6, 1]),
        set_in("asymmetry", value=["left", "right"]),
        set_in("labels", "1", "laterality", value={"value": "7771000"}),
        set_in("spacing_mm", value="fine"),
    ],
)
def test_a_declaration_that_is_none_is_reported(bundle_copy: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = bundle_copy / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    edit(metadata["localisation"])
    path.write_text(json.dumps(metadata))
    with pytest.raises(BundleError, match=r"metadata\.json: localisation: expected template"):
        Segmenter.from_bundle(bundle_copy, device="cpu")


def test_a_bundle_that_declares_nothing_takes_every_scan_as_it_is(bundle_copy: Path, head: Volume) -> None:
    path = bundle_copy / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["localisation"]
    path.write_text(json.dumps(metadata))
    bundle = Bundle("crops", bundle_copy)
    assert Locator(bundle).locate(head) is None
    with pytest.raises(UsageError, match="bundle crops declares no regions"):
        Locator(bundle, ["left=0,0,0"])


def test_crops_are_reported_by_their_extent(head: Volume) -> None:
    declared = read_localisation(find_bundle("hippocampus"))
    assert declared is not None
    assert declared.is_crop(Grid((20, 50, 20), head.grid.affine))
    assert not declared.is_crop(Grid((20, 51, 20), head.grid.affine))
    crop = Volume(head.array[30:50, 30:80, 30:50], Grid((20, 50, 20), head.grid.affine), "crop")
    assert Locator(find_bundle("hippocampus")).locate(crop) is None
    assert Locator(find_bundle("hippocampus"), ["whole"]).locate(head) is None


@pytest.mark.parametrize(
    "texts",
    [["left"], ["left=1,2"], ["middle=1,2,3"], ["left=1,2,3", "left hippocampus=1,2,3"], ["=1,2,3"], ["left=1,2,x"],
     ["left=1,2,3,1,5,6"], ["left=nan,1,2"], ["whole", "left=1,2,3"]],
)  # fmt: skip
def test_a_place_that_is_none_is_reported(texts: list[str]) -> None:
    with pytest.raises(UsageError, match="roi: expected"):
        Segmenter.from_bundle("hippocampus", device="cpu", roi=tuple(texts))


def test_places_given_by_hand() -> None:
    declared = read_localisation(find_bundle("hippocampus"))
    boxes = parse_rois(["left=-26,-22,-10", "right=46,6,10,6,-50,-30"], declared, "b")
    assert boxes is not None
    np.testing.assert_array_equal(boxes["left hippocampus"], [(-46, -50, -30), (-6, 6, 10)])
    np.testing.assert_array_equal(boxes["right hippocampus"], [(6, -50, -30), (46, 6, 10)])
    assert parse_rois(["whole"], declared, "b") is None


@pytest.mark.parametrize(("length_mm", "cut_off"), [(10, False), (30, False), (40, True)])
def test_only_what_the_last_box_cuts_off_is_called_cut_off(length_mm: int, cut_off: bool) -> None:
    """A box of ±20 mm grows with its content, up to ±32 mm; at 30 mm its last growth is the one that holds all."""
    array = np.zeros((60, 120, 120), np.float32)
    array[28:33, 55:66, 60 : 60 + length_mm] = 1
    scan = Volume(array, Grid(array.shape, np.eye(4)), "bar")
    locator = Locator(find_bundle("hippocampus"), ["left=30,60,60"])
    located = locator.locate(scan)
    assert located is not None
    assert locator.localisation is not None

    def bright(crop: Volume, grid: Grid) -> tuple[NDArray[np.uint8], None]:
        return nearest((crop.array > 0.4).astype(np.uint8), crop.grid, grid), None  # half a voxel beside the scan's

    done = assemble(located, scan.grid, bright)
    assert any("may be cut off" in warning for warning in done.warnings) == cut_off
    assert (np.argwhere(done.labels)[:, 2].max() == 59 + length_mm) != cut_off


def test_without_the_template_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"nilearn is not installed. .*pip install nilearn$"):
        template_module.template_files()


def test_an_unknown_template_is_reported() -> None:
    with pytest.raises(TomosegError, match="expected MNI152, got 'MNI305'"):
        load_template("MNI305")


@settings(deadline=None)
@given(st.tuples(*[st.floats(-180, 180)] * 3), st.floats(0.7, 1.3), st.tuples(*[st.floats(-0.1, 0.1)] * 6))
def test_the_frame_of_a_head_only_turns_moves_and_mirrors(
    angles: tuple[float, float, float], size: float, shears: tuple[float, ...]
) -> None:
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    stretch = np.eye(3) * size
    stretch[np.triu_indices(3, 1)] += shears[:3]
    stretch = (stretch + stretch.T) / 2
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn @ stretch, shears[3:]
    np.testing.assert_allclose(rotation_of(matrix), turn, atol=1e-9)
    for mirrored in (False, True):
        frame = head_frame(matrix, mirrored)
        assert np.linalg.det(frame[:3, :3]) == pytest.approx(-1 if mirrored else 1)
        np.testing.assert_allclose(frame[:3, :3] @ frame[:3, :3].T, np.eye(3), atol=1e-9)
        np.testing.assert_allclose(frame @ matrix @ (0, 0, 0, 1), (0, 0, 0, 1), atol=1e-9)


# what a turn by 1e-292 degrees leaves of a matrix
NEARLY_STRAIGHT = Grid(
    (2, 2, 2),
    np.array(
        [[-1, 6e-294, -3e-295, 0], [-6e-294, -0.99985, 0.05236, 0], [-1e-311, -0.01745, -2.99954, 0], [0, 0, 0, 1]]
    ),
)


@settings(deadline=None)
@given(grids(), st.booleans(), st.tuples(*[st.floats(-30, 30)] * 3))
@example(NEARLY_STRAIGHT, False, (0.0, 0.0, 0.0))
def test_a_crop_shows_the_scan_and_its_target_holds_it(
    grid: Grid, mirrored: bool, angles: tuple[float, float, float]
) -> None:
    """A scan whose values are a linear function of place has the same values wherever it is resampled."""
    slope = np.array([0.3, -0.2, 0.5])
    indices = np.stack([*np.indices(grid.shape), np.ones(grid.shape)], axis=-1)
    array = ((indices @ grid.affine.T)[..., :3] @ slope).astype(np.float32)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    frame = head_frame(turn, mirrored)
    middle = (frame @ grid.affine @ (*((np.array(grid.shape) - 1) / 2), 1))[:3]
    middle += 0.0123 * min(grid.spacing)  # no voxel lies on the border of the crop
    half = 0.2 * np.array(grid.spacing).min() * np.array(grid.shape).min() * np.ones(3) + 0.01
    spacing = np.full(3, min(grid.spacing))
    crop = cut_out(Volume(array, grid, "linear"), frame, middle - half, middle + half, spacing)
    places = np.stack([*np.indices(crop.volume.array.shape), np.ones(crop.volume.array.shape)], axis=-1)
    in_scan = places @ crop.volume.grid.affine.T @ np.linalg.inv(frame).T
    seen = within(crop.volume.grid.shape, np.linalg.inv(grid.affine) @ np.linalg.inv(frame) @ crop.volume.grid.affine,
                  grid.shape)  # fmt: skip
    at = in_scan @ np.linalg.inv(grid.affine).T
    inner = seen & (at[..., :3] >= 0).all(-1) & (at[..., :3] <= np.array(grid.shape) - 1).all(-1)
    np.testing.assert_allclose(crop.volume.array[inner], (in_scan[..., :3] @ slope)[inner], atol=1e-2)
    target = crop.target()
    assert target is not None
    box, small = target
    np.testing.assert_allclose(small.affine @ (0, 0, 0, 1), frame @ grid.affine @ (*(s.start for s in box), 1))
    assert small.shape == tuple(side.stop - side.start for side in box)
    inside = np.zeros(grid.shape, bool)
    inside[box] = within(small.shape, small.index_to(crop.volume.grid), crop.volume.grid.shape)
    everywhere = Grid(grid.shape, frame @ grid.affine)
    np.testing.assert_array_equal(
        inside, within(grid.shape, everywhere.index_to(crop.volume.grid), crop.volume.grid.shape)
    )


def test_nearest_takes_the_nearest_voxel() -> None:
    array = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    grid = Grid((3, 3, 3), np.eye(4))
    fine = Grid((6, 6, 6), np.array([[0.5, 0, 0, -0.25], [0, 0.5, 0, -0.25], [0, 0, 0.5, -0.25], [0, 0, 0, 1]]))
    np.testing.assert_array_equal(nearest(array, grid, fine), array.repeat(2, 0).repeat(2, 1).repeat(2, 2))


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_head_in_any_orientation_is_the_same_to_the_registration(codes: str, head: Volume) -> None:
    """All that follows sees what `canonical` returns, so nothing of a result depends on the orientation."""
    turn = ornt_transform(io_orientation(head.grid.affine), axcodes2ornt(tuple(codes)))
    turned = apply_orientation(head.array, turn)
    grid = Grid(turned.shape, head.grid.affine @ inv_ornt_aff(turn, head.grid.shape))
    assert grid.orientation == codes
    array, affine = canonical(turned, grid)
    np.testing.assert_array_equal(array, head.array)
    np.testing.assert_allclose(affine, head.grid.affine, atol=1e-12)


@pytest.mark.slow
def test_a_moved_head_is_found_where_it_is(mni: Template, head: Volume) -> None:
    shift = np.array([35.0, -40.0, 45.0])
    scan = moved(head, (25.0, -20.0, 28.0), shift)
    found = register(mni, scan.array, scan.grid)
    truth = scan.grid.affine @ np.linalg.inv(head.grid.affine) @ HIPPOCAMPI_MM
    np.testing.assert_allclose(found.matrix @ HIPPOCAMPI_MM, truth, atol=2.0)
    assert found.similarity > 0.7
    assert found.seen > 0.99
    again = register(mni, scan.array, scan.grid)
    np.testing.assert_array_equal(found.matrix, again.matrix)


@pytest.mark.slow
def test_what_is_no_head_has_a_low_score(mni: Template) -> None:
    declared = read_localisation(find_bundle("hippocampus"))
    assert declared is not None
    indices = np.indices((70, 70, 70)) - 35.0
    noise = np.random.default_rng(0).standard_normal((70, 70, 70))
    ball = (np.sqrt((indices**2).sum(axis=0)) < 26) * 100 + 5 * noise
    for array in (ball, np.zeros((30, 40, 50)), ball[:, :, :3]):
        grid = Grid(array.shape, np.diag([3.0, 3.0, 3.0, 1.0]))
        assert register(mni, array.astype(np.float32), grid).similarity < declared.least_score

"""The geometry contract: in each format and orientation of a scan, its labels lie where the patient has them.

Scans of a scene that is known at every point go through the whole pipeline, from the file to the label map's own file,
which is compared with the scene in world coordinates. Mutants show which errors this would find.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from support.bundles import dice
from support.dicoms import RAS_TO_LPS
from support.scene import (
    EDGE,
    KINDS,
    LABELS,
    SHEARED,
    labels_of,
    scan_grid,
    turned,
    values_at,
    voxel_centres,
    write_bundle,
    write_scan,
)
from support.strategies import AXIS_ORDERS, ORIENTATIONS, orientations
from support.tiers import rest_exhaustive
from tomoseg import Grid, Segmenter, Volume
from tomoseg.core.reader_process import _Reader
from tomoseg.data.dicom.slices import Arrangement, Slice
from tomoseg.inference.sliding_window.placement import Placement

ENOUGH = 0.97  # Dice against the truth
ALIKE = 0.99  # Dice between the same voxels stored in another order
# a NIfTI has a qform as a quaternion in float32, which loses most where it turns by 180°: up to 0.11 mm were seen here
NEAR_MM = 0.2

Array = NDArray[Any]
Scan = tuple[str, Grid]
Mutation = Callable[[pytest.MonkeyPatch], None]

FAMILIES = {
    "NIfTI": ["NIfTI with an sform", "NIfTI with a qform"],
    "NRRD and MetaImage": ["NRRD in LPS", "NRRD in RAS", "MetaImage"],
    "DICOM": ["DICOM series", "multi-frame DICOM"],
}
OBLIQUE = scan_grid("PIR", (0.8, 1.3, 2.2), tilt=(13, -21, 8), middle=(0.7, -0.3, 0.9))
TILTED_GANTRY = scan_grid("LPS", (0.9, 1.4, 2.0), tilt=(5, 9, -14), shear=(0.1, 0.35))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Volumes this small take up to 20 times longer on two threads where other processes want the cores, too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return load(tmp_path_factory.mktemp("contract") / "bundle", "orientation", "spacing")


def load(root: Path, *preprocessing: str) -> Segmenter:
    return Segmenter.from_bundle(write_bundle(root, preprocessing), device="cpu", backend="torch")


@st.composite
def scans(draw: st.DrawFn, kinds: Sequence[str], orientation: str | None = None, sheared: bool = True) -> Scan:
    """A kind of file, and a grid of 0.6 to 3 mm around the scene, oblique, and sheared where the file can hold that."""

    def three(low: float, high: float) -> list[float]:
        return [draw(st.floats(low, high)) for _ in range(3)]

    kind = draw(st.sampled_from(kinds))
    grid = scan_grid(
        orientation or draw(orientations()),
        spacing=[3 * 0.2**share for share in three(0, 1)],  # as often around 0.7 mm as around 2.5 mm
        tilt=three(-30, 30),
        shear=three(-0.5, 0.5)[:2] if sheared and kind in SHEARED else (0, 0),
        middle=three(-1, 1),
    )
    assume(math.prod(grid.shape) < 200_000)  # for the time
    return kind, grid


def segment(segmenter: Segmenter, kind: str, grid: Grid) -> nib.Nifti1Image:
    """Write a scan and segment it; return the label map as it was written, with the array's axes as in `grid`."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "labels.nii"
        segmenter(write_scan(Path(folder), grid, kind)).save(path)
        return with_axes_of(grid, nib.Nifti1Image.from_bytes(path.read_bytes()))


def with_axes_of(grid: Grid, image: nib.Nifti1Image) -> nib.Nifti1Image:
    return image.as_reoriented(io_orientation(np.linalg.solve(grid.affine, image.affine)))


def labels_and_truth(image: nib.Nifti1Image) -> tuple[Array, Array]:
    """Return the labels of a label map, and those of the scene where the map's own affine has its voxels."""
    return np.asarray(image.dataobj), labels_of(values_at(voxel_centres(image.shape, image.affine)))


def agreement(labels: Array, others: Array) -> float:
    """Return the Dice of the label that agrees least."""
    return min(dice(labels, others, label) for label in LABELS)


def slips(labels: Array) -> dict[str, Array]:
    """Return the labels as each slip by one voxel or one sign would leave them."""
    flipped = {f"flipped along axis {axis}": np.flip(labels, axis) for axis in range(3)}
    return flipped | {f"{step:+} along axis {axis}": moved(labels, axis, step) for axis in range(3) for step in (-1, 1)}


def moved(labels: Array, axis: int, step: int) -> Array:
    result = np.roll(labels, step, axis)
    np.moveaxis(result, axis, 0)[0 if step > 0 else -1] = 0
    return result


@pytest.mark.parametrize("orientation", rest_exhaustive(dict.fromkeys([*AXIS_ORDERS, *ORIENTATIONS]), len(AXIS_ORDERS)))
@pytest.mark.parametrize("family", FAMILIES)
def test_labels_lie_where_the_patient_has_them(segmenter: Segmenter, family: str, orientation: str) -> None:
    """And at each of these grids a shift by one voxel, or a flip, would have been found."""

    @settings(max_examples=2, deadline=None)
    @given(scans(FAMILIES[family], orientation))
    def check(scan: Scan) -> None:
        image = segment(segmenter, *scan)
        labels, truth = labels_and_truth(image)
        assert Grid(image.shape, image.affine).matches(scan[1], NEAR_MM)
        assert agreement(labels, truth) >= ENOUGH
        for slip, mutant in slips(labels).items():
            assert agreement(mutant, truth) < ENOUGH, slip

    check()


@pytest.mark.parametrize("turns", [AXIS_ORDERS, pytest.param(ORIENTATIONS, marks=pytest.mark.slow)], ids=["6", "48"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_in_which_the_voxels_are_stored_makes_no_difference(
    segmenter: Segmenter, family: str, turns: Sequence[str]
) -> None:
    """One set of voxels, its array's axes permuted and flipped."""

    # the axes of DICOM's images are at right angles; only the third may be sheared, which is not always the same here
    @settings(max_examples=2, deadline=None)
    @given(scans(FAMILIES[family], "RAS", sheared=family != "DICOM"))
    def check(scan: Scan) -> None:
        kind, grid = scan
        images = [with_axes_of(grid, segment(segmenter, kind, turned(grid, to))) for to in turns]
        assert all(Grid(image.shape, image.affine).matches(grid, NEAR_MM) for image in images)
        first, *others = (np.asarray(image.dataobj) for image in images)
        assert agreement(first, np.flip(first, 0)) < ALIKE
        for other in others:
            assert agreement(first, other) >= ALIKE
            assert np.count_nonzero(first != other) <= 2  # rounding may decide where two scores are equal

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_without_resampling_every_single_voxel_is_right(kind: str, tmp_path: Path) -> None:
    segmenter = load(tmp_path / "bundle", "orientation")

    @settings(max_examples=6, deadline=None)
    @given(scans([kind]))
    def check(scan: Scan) -> None:
        image = segment(segmenter, *scan)
        labels, truth = labels_and_truth(image)
        values = values_at(voxel_centres(image.shape, image.affine))
        clear = np.abs(np.abs(values) - EDGE) > 0.05  # the files hold the values rounded to 0.02
        np.testing.assert_array_equal(labels[clear], truth[clear])

    check()


def test_the_spacing_may_be_changed_before_the_orientation(tmp_path: Path) -> None:
    segmenter = load(tmp_path / "bundle", "spacing", "orientation")

    @settings(max_examples=12, deadline=None)
    @given(scans(list(KINDS)))
    def check(scan: Scan) -> None:
        assert agreement(*labels_and_truth(segment(segmenter, *scan))) >= ENOUGH

    check()


def after(target: str, change: Callable[[Any], Any]) -> Mutation:
    """Return a mutation that changes what a function returns."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        original = pkgutil.resolve_name(target)
        patch.setattr(target, lambda *args, **options: change(original(*args, **options)))

    return mutate


def signs_become(*signs: float) -> Mutation:
    """Return a mutation of the step from LPS to RAS."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        for module in ("itk_image", "dicom.slices"):
            patch.setattr(f"tomoseg.data.{module}.LPS_TO_RAS", np.diag([*signs, 1.0]))

    return mutate


def affine_becomes(change: Callable[[Array], Array], *modules: str) -> Mutation:
    """Return a mutation of the affine that readers find."""

    def changed(volume: Volume) -> Volume:
        return replace(volume, grid=Grid(volume.grid.shape, change(volume.grid.affine)))

    def mutate(patch: pytest.MonkeyPatch) -> None:
        for module in modules:
            after(f"tomoseg.data.{module}.make_volume", changed)(patch)

    return mutate


def network_lies(*offset: float) -> Mutation:
    """Return a mutation of where the network's grid is believed to be, in voxels of that grid."""

    def changed(placement: Placement) -> Placement:
        return replace(placement, matrix=translation(*offset) @ placement.matrix)

    return after("tomoseg.inference.streaming.place", changed)


def translation(*offset: float) -> Array:
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


def swapped_spacing(affine: Array) -> Array:
    i, j = np.linalg.norm(affine[:3, :2], axis=0)
    return np.asarray(affine @ np.diag([j / i, i / j, 1, 1]))


def without_tilt(affine: Array) -> Array:
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal /= np.linalg.norm(normal)
    upright = affine.copy()
    upright[:3, 2] = normal * (normal @ affine[:3, 2])
    return np.asarray(upright)


def placed(found: Arrangement, slices: Sequence[Slice]) -> Arrangement:
    """Return an arrangement with its slices in another order."""
    places = (one.place for one in found.slices)
    return replace(found, slices=tuple(replace(one, place=at) for one, at in zip(slices, places, strict=True)))


def by_name(found: Arrangement) -> Arrangement:
    return placed(found, sorted(found.slices, key=lambda one: (one.frame.path.name, one.frame.number)))


READERS = ("nifti", "itk_image", "dicom.series")
IN_LPS = [*FAMILIES["NRRD and MetaImage"], *FAMILIES["DICOM"]]
MUTATIONS: dict[str, tuple[Mutation, Sequence[str]]] = {
    "LPS taken for RAS": (signs_become(1, 1, 1), IN_LPS),
    "right and left mixed up": (signs_become(1, -1, 1), IN_LPS),
    "a voxel's corner taken for its centre": (
        affine_becomes(lambda affine: affine @ translation(-0.5, -0.5, -0.5), *READERS),
        list(KINDS),
    ),
    "slices in the order of the files": (after("tomoseg.data.dicom.series.arrange", by_name), FAMILIES["DICOM"]),
    "slices from the other end": (
        after("tomoseg.data.dicom.series.arrange", lambda found: placed(found, found.slices[::-1])),
        FAMILIES["DICOM"],
    ),
    "the spacing of the rows taken for that of the columns": (
        affine_becomes(swapped_spacing, "dicom.series"),
        FAMILIES["DICOM"],
    ),
    "rows taken for columns": (
        after("tomoseg.data.dicom.series.read_pixels", lambda pixels: pixels.transpose(1, 0, 2)),
        FAMILIES["DICOM"],
    ),
    "the tilt of the gantry forgotten": (affine_becomes(without_tilt, *READERS), sorted(SHEARED)),
    "the network's grid one voxel off": (network_lies(0, 1, 0), list(KINDS)),
    "the network's corners taken for centres": (network_lies(0.5, 0.5, 0.5), list(KINDS)),
}


@pytest.fixture(scope="module")
def unmutated(segmenter: Segmenter) -> Callable[[str, Grid], float]:
    """How well the labels agree without a mutation."""
    found: dict[tuple[str, int], float] = {}

    def agree(kind: str, grid: Grid) -> float:
        if (kind, id(grid)) not in found:
            found[kind, id(grid)] = agreement(*labels_and_truth(segment(segmenter, kind, grid)))
        return found[kind, id(grid)]

    return agree


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutant_does_not_keep_the_contract(
    segmenter: Segmenter, unmutated: Callable[[str, Grid], float], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate, kinds = MUTATIONS[name]
    grid = TILTED_GANTRY if "tilt" in name else OBLIQUE
    for kind in kinds:
        assert unmutated(kind, grid) >= ENOUGH
        with monkeypatch.context() as patch:
            patch.setattr(_Reader, "serving", True)  # read in this process, which has the mutation
            mutate(patch)
            assert agreement(*labels_and_truth(segment(segmenter, kind, grid))) < ENOUGH, kind


def test_no_turn_and_no_mirror_leaves_the_scene_as_it_is() -> None:
    grid = scan_grid("RAS", (1.5, 1.5, 1.5))
    labels = labels_of(values_at(voxel_centres(grid.shape, grid.affine)))
    for to in ORIENTATIONS:
        other = apply_orientation(labels, ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(to)))
        assert to == "RAS" or agreement(labels, other) < 0.7


@pytest.mark.parametrize("kind", KINDS)
def test_other_readers_find_the_scene_in_the_scans(kind: str, tmp_path: Path) -> None:
    """So that writer and reader of these tests cannot share an error."""
    array, affine = read_elsewhere(write_scan(tmp_path, OBLIQUE, kind))
    assert sorted(array.shape) == sorted(OBLIQUE.shape)
    np.testing.assert_allclose(array, values_at(voxel_centres(array.shape, affine)), atol=0.02)


def read_elsewhere(path: Path) -> tuple[Array, Array]:
    """Return a scan's values and affine in RAS as SimpleITK has them, or highdicom for several frames in a file."""
    affine = np.eye(4)
    if path.suffix == ".dcm":
        from highdicom import imread

        volume = imread(path).get_volume()
        affine[:3] = RAS_TO_LPS @ volume.affine[:3]
        return volume.array, affine
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)) if path.is_dir() else str(path)
    image = sitk.ReadImage(names)
    affine[:3, :3] = RAS_TO_LPS @ np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = RAS_TO_LPS @ image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), affine

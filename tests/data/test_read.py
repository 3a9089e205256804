"""Reading scans: good ones are read exactly, bad ones end in one line that names the file."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from support.scene import as_a_qform
from support.strategies import grids
from support.tiers import examples
from tomoseg import Grid, TomosegError, Volume, read_volume
from tomoseg.data.formats import strip_suffix
from tomoseg.data.nifti import write_label_map
from tomoseg.data.scan_files import is_volume, visible_files

SHAPE = (5, 6, 7)


def ramp(dtype: str = "int16") -> np.ndarray:
    return np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(dtype)


def write(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_reads_every_numeric_type(tmp_path: Path, suffix: str, kind: Any, dtype: str, endian: Any) -> None:
    header = kind.header_class(endianness=endian)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(endian))
    path = tmp_path / f"scan{suffix}"
    nib.save(kind(ramp(dtype), np.diag([2, 3, 4, 1]), header), path)
    volume = read_volume(path)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, ramp("float32"))
    assert volume.grid.spacing == (2, 3, 4)


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    path = write(tmp_path / "ct.nii", ramp())
    with path.open("r+b") as file:
        file.seek(112)  # scl_slope and scl_inter of a NIfTI-1 header
        file.write(np.array([2.0, -1024.0], "<f4").tobytes())
    np.testing.assert_array_equal(read_volume(path).array, ramp("float32") * 2 - 1024)


def test_a_fourth_axis_of_one_is_one_volume(tmp_path: Path) -> None:
    volume = read_volume(write(tmp_path / "scan.nii.gz", ramp()[..., None]))
    np.testing.assert_array_equal(volume.array, ramp("float32"))


SHEARED = np.array([[2, 0.3, 0, 5], [0, 3, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1]])
# the quaternion of a qform holds no shear, and has another origin
TURNED = np.array([[0, 3, 0, -9], [-2, 0, 0, 8], [0, 0, 4, 1], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("sform", "qform", "grid", "notes"),
    [
        (SHEARED, None, SHEARED, ""),
        (TURNED, TURNED, TURNED, ""),
        (None, TURNED, TURNED, ""),
        (SHEARED, TURNED, SHEARED, "its sform and qform differ by up to 23.58 mm; the sform is used, as NIfTI has it"),
        (None, None, None, "neither its sform nor its qform is set: which side is left is a guess, nibabel's"),
    ],
)
def test_the_sform_wins_over_the_qform(tmp_path: Path, sform: Any, qform: Any, grid: Any, notes: str) -> None:
    image = nib.Nifti1Image(ramp(), None)
    image.header.set_zooms((2, 3, 4))
    image.set_sform(sform, 1 if sform is not None else 0)
    image.set_qform(qform, 1 if qform is not None else 0)
    nib.save(image, tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    if grid is not None:
        np.testing.assert_allclose(volume.grid.affine, grid, atol=1e-5)
    assert volume.grid.spacing == pytest.approx((2, np.hypot(3, 0.3) if grid is SHEARED else 3, 4))
    assert volume.notes == ((notes,) if notes else ())


def test_what_a_qform_rounds_is_no_contradiction(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (11, -23, 35), degrees=True).as_matrix() * (0.7, 0.8, 2.5)
    image = nib.Nifti1Image(np.zeros((200, 180, 40), "uint8"), affine)
    image.set_qform(affine, 1)
    nib.save(image, tmp_path / "scan.nii")
    assert read_volume(tmp_path / "scan.nii").notes == ()


def test_a_damaged_qform_beside_a_sform_is_reported(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ramp(), SHEARED)
    image.set_qform(TURNED, 1)
    nib.save(image, tmp_path / "scan.nii")
    damage(tmp_path / "scan.nii", 268, np.array([np.nan], "<f4").tobytes())  # qoffset_x
    volume = read_volume(tmp_path / "scan.nii")
    np.testing.assert_allclose(volume.grid.affine, SHEARED, atol=1e-6)
    assert volume.notes == ("its qform is damaged; the sform is used",)


@pytest.mark.parametrize("unit", ["micron", "meter"])
def test_lengths_that_are_not_in_mm_are_refused(tmp_path: Path, unit: str) -> None:
    image = nib.Nifti1Image(ramp(), np.eye(4))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "scan.nii")
    with pytest.raises(TomosegError, match=rf"scan\.nii: expected lengths in mm, its header says {unit}\. Convert it"):
        read_volume(tmp_path / "scan.nii")


@settings(max_examples=30)
@given(grids())
def test_a_path_a_nibabel_image_and_a_simpleitk_image_are_one_volume(
    tmp_path_factory: pytest.TempPathFactory, grid: Grid
) -> None:
    grid = Grid(grid.shape, as_a_qform(grid.affine))  # which ITK may read
    array = np.random.default_rng(0).normal(size=grid.shape).astype("float32")
    path = tmp_path_factory.mktemp("any") / "scan.nii"
    image = nib.Nifti1Image(array, grid.affine)
    image.set_qform(grid.affine, 1)
    nib.save(image, path)
    volumes = [read_volume(path), read_volume(image), read_volume(sitk.ReadImage(str(path)))]
    for volume in volumes:
        np.testing.assert_array_equal(volume.array, array)
        assert volume.grid.matches(grid, tolerance_mm=2e-3)


def damage(path: Path, start: int, value: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(value)
    return path


def bad_files(folder: Path) -> dict[str, Path]:
    good = write(folder / "good.nii", ramp())
    packed = write(folder / "good.nii.gz", np.random.default_rng(0).normal(size=(30, 30, 30)))

    def copy(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    raw, zipped = good.read_bytes(), packed.read_bytes()
    nan, infinite = ramp("float32"), ramp("float64")
    nan[1, 2, 3], infinite[0, 0, 0] = np.nan, 1e300
    return {
        "no such file": folder / "missing.nii.gz",
        "empty": copy("empty.nii.gz", b""),
        "truncated": copy("cut.nii", raw[:-40]),
        "truncated or damaged": copy("cut.nii.gz", zipped[: len(zipped) // 2]),
        "or a damaged file": copy("header_cut.nii.gz", zipped[:40]),
        "got something else": copy("text.nii", b"These are not the voxels you are looking for." * 20),
        "something else or a damaged file$": copy("photo.nii.gz", gzip.compress(os.urandom(2000))),
        "expected a CT or MR series, got no DICOM file": folder,
        "got a 2D image": write(folder / "flat.nii", ramp()[0]),
        "2D image or a single": write(folder / "slice.nii", ramp()[:, :, :1]),
        "expected one 3D volume, got 4D 5×6×7×3": write(folder / "4d.nii", np.stack([ramp()] * 3, axis=-1)),
        "NaN or infinity in 1 of 210": write(folder / "nan.nii", nan),
        "infinity in 1 of 210": write(folder / "inf.nii", infinite),
        "one real value a voxel, got the type complex64": write(folder / "complex.nii", ramp("complex64")),
        "header declares": damage(copy("huge.nii", raw), 40, np.array([3, 30000, 30000, 30000], "<i2").tobytes()),
        "its NIfTI header is damaged|something else|cannot be read": damage(
            copy("dtype.nii", raw), 70, np.array([9999], "<i2").tobytes()
        ),
        "invertible affine": damage(copy("affine.nii", raw), 280, bytes(48)),
    }  # fmt: skip


def test_each_way_of_being_bad_has_its_own_line(tmp_path: Path) -> None:
    for message, path in bad_files(tmp_path).items():
        with pytest.raises(TomosegError, match=message) as caught:
            read_volume(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("members", [1, 3])
def test_a_flipped_bit_of_a_packed_file_is_an_error_or_changes_nothing(tmp_path: Path, members: int) -> None:
    values = np.random.default_rng(0).integers(0, 1000, (9, 10, 11)).astype(np.int16)
    raw = write(tmp_path / "raw.nii", values).read_bytes()
    parts = [raw[len(raw) * part // members : len(raw) * (part + 1) // members] for part in range(members)]
    packed = b"".join(map(gzip.compress, parts))
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(packed)
    np.testing.assert_array_equal(read_volume(path).array, values)
    failed = 0
    for at in np.random.default_rng(1).integers(10, len(packed), 60):
        path.write_bytes(packed[:at] + bytes([packed[at] ^ 4]) + packed[at + 1 :])
        try:
            np.testing.assert_array_equal(read_volume(path).array, values)
        except TomosegError as error:
            failed += str(error).startswith(f"{path}: ")
    assert failed > 50


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_a_packed_file_without_its_checksum_is_truncated(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "scan.nii.gz", np.random.default_rng(0).normal(size=(20, 20, 20)))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(TomosegError, match="truncated or damaged"):
        read_volume(path)


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(TomosegError, match=r"expected a path, a nibabel image or a SimpleITK image, got builtins\.int"):
        read_volume(3)
    with pytest.raises(TomosegError, match="expected a 3D volume"):
        read_volume(sitk.Image(5, 5, sitk.sitkFloat32))


@settings(max_examples=examples(200), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), zipped=st.booleans())
def test_any_damage_ends_in_a_volume_or_in_our_error(tmp_path: Path, data: st.DataObject, zipped: bool) -> None:
    content = bytearray(write(tmp_path / "whole.nii", ramp(), np.diag([1, 2, 3, 1])).read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, 351))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path / ("bad.nii.gz" if zipped else "bad.nii")
    path.write_bytes(gzip.compress(content, 1) if zipped else content)
    outcome: str | Volume
    try:
        outcome = read_volume(path)
    except TomosegError as error:
        outcome = str(error)
    assert str(path) in outcome if isinstance(outcome, str) else np.isfinite(outcome.array).all()


@settings(max_examples=30)
@given(grids(), st.sampled_from(["uint8", "uint16"]))
def test_a_label_map_lies_where_the_scan_lies(tmp_path_factory: pytest.TempPathFactory, grid: Grid, dtype: str) -> None:
    folder = tmp_path_factory.mktemp("labels")
    scan = nib.Nifti1Image(np.zeros(grid.shape, "int16"), grid.affine)
    scan.set_sform(grid.affine, 2)
    scan.set_qform(grid.affine, 1)
    scan.header.set_xyzt_units("mm", "sec")
    scan.header["descrip"] = b"Jane Doe, born 1970"
    scan.header["cal_max"] = 900
    scan.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    nib.save(scan, folder / "scan.nii.gz")
    volume = read_volume(folder / "scan.nii.gz")
    assert volume.header is not None
    labels = np.random.default_rng(1).integers(0, 200, grid.shape).astype(dtype)
    write_label_map(folder / "seg.nii.gz", labels, volume.grid, volume.header)

    written = nib.load(folder / "seg.nii.gz")
    assert written.get_data_dtype() == np.dtype(dtype)
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), labels)
    for field in ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x", "xyzt_units"):
        np.testing.assert_array_equal(written.header[field], volume.header[field])
    assert b"Jane" not in gzip.decompress((folder / "seg.nii.gz").read_bytes())
    by_itk = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "seg.nii.gz")))
    np.testing.assert_array_equal(by_itk.transpose(2, 1, 0), labels)


def test_a_label_map_has_a_nifti_name(tmp_path: Path) -> None:
    grid = Grid(SHAPE, np.eye(4))
    with pytest.raises(TomosegError, match=r"expected a name that ends in \.nii\.gz or \.nii"):
        write_label_map(tmp_path / "seg.png", ramp("uint8"), grid, None)
    assert not list(tmp_path.iterdir())


def test_finds_volumes_below_a_folder_but_not_hidden_ones_and_not_results(tmp_path: Path) -> None:
    for name in ("b.nii", "a/x.NII.GZ", "a/.hidden.nii", "a/note.txt", ".cache/y.nii", "out/z_seg.nii.gz"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = filter(is_volume, visible_files(tmp_path, leave_out=tmp_path / "out"))
    assert list(found) == [tmp_path / "a/x.NII.GZ", tmp_path / "b.nii"]
    assert strip_suffix("x.NII.GZ") == "x"
    assert strip_suffix("a.b.nii") == "a.b"

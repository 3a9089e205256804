"""NRRD and MetaImage files: written files are read; one line reports truncated, damaged and misplaced ones."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from support.strategies import grids
from tomoseg import Grid, TomosegError, Volume, read_volume
from tomoseg.data.volume import LPS_TO_RAS

SHAPE = (6, 7, 8)
TYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
# from RAS to the spaces of NRRD
SPACES = {
    "right-anterior-superior": (1, 1, 1),
    "RAS": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "LAS": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "LPS": (-1, -1, 1),
}
META_TYPES = {
    "int8": "CHAR", "uint8": "UCHAR", "int16": "SHORT", "uint16": "USHORT", "int32": "INT", "uint32": "UINT",
    "int64": "LONG_LONG", "uint64": "ULONG_LONG", "float32": "FLOAT", "float64": "DOUBLE",
}  # fmt: skip


def noise(shape: tuple[int, ...] = SHAPE, dtype: str = "int16") -> Any:
    values = np.random.default_rng(0).normal(60, 20, shape)
    return values.clip(0, 120).astype(dtype) * (1 if dtype.startswith("u") else -1)


def write_nrrd(path: Path, array: Any, grid: Grid, space: str = "LPS", **header: Any) -> Path:
    signs = np.array(SPACES[space])
    reported = {
        "space": space,
        "space directions": (grid.affine[:3, :3] * signs[:, None]).T,
        "space origin": grid.affine[:3, 3] * signs,
        "kinds": ["domain"] * 3,
        **header,
    }
    nrrd.write(str(path), array, reported)
    return path


def simple_itk(array: Any, grid: Grid) -> sitk.Image:
    """Return an image of a grid that is not sheared."""
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    affine = LPS_TO_RAS @ grid.affine
    image.SetSpacing(grid.spacing)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / grid.spacing).ravel().tolist())
    return image


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd"])
def test_what_simple_itk_makes_of_a_nifti_file_is_read(suffix: str, tmp_path: Path) -> None:
    """It keeps the whole NIfTI header, `dim[0]` and all, as fields of the new one."""
    nib.save(nib.Nifti1Image(noise(), np.diag([1.0, 2.0, 3.0, 1.0])), tmp_path / "scan.nii.gz")
    sitk.WriteImage(sitk.ReadImage(tmp_path / "scan.nii.gz"), tmp_path / f"scan{suffix}")
    found, wanted = read_volume(tmp_path / f"scan{suffix}"), read_volume(tmp_path / "scan.nii.gz")
    one, other = (
        nib.as_closest_canonical(nib.Nifti1Image(volume.array, volume.grid.affine)) for volume in (found, wanted)
    )
    np.testing.assert_array_equal(one.dataobj, other.dataobj)
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-6)


def write_meta(path: Path, array: Any, **fields: Any) -> Path:
    """Write a MetaImage with voxels of 1×2×3 mm; `fields` replace or add to those of its header, bytes to its data."""
    data = fields.pop("data", array.tobytes("F"))
    reported = {
        "ObjectType": "Image", "NDims": 3, "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0",
        "ElementSpacing": "1 2 3", "DimSize": " ".join(map(str, array.shape)),
        "ElementType": f"MET_{META_TYPES[array.dtype.newbyteorder('=').name]}", **fields,
    }  # fmt: skip
    file = reported.pop("ElementDataFile", "LOCAL")
    lines = "".join(f"{name} = {value}\n" for name, value in reported.items())
    path.write_bytes(f"{lines}ElementDataFile = {file}\n".encode() + (data if file == "LOCAL" else b""))
    return path


def assert_same(volume: Volume, array: Any, grid: Grid, tolerance_mm: float = 1e-6) -> None:
    np.testing.assert_array_equal(volume.array, array.astype("float32"))
    assert volume.grid.matches(grid, tolerance_mm)


def failure(path: Path) -> str:
    """Return the message, without the file, which stands first."""
    with pytest.raises(TomosegError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@settings(max_examples=25, deadline=None)
@given(
    grids(),
    st.sampled_from(list(SPACES)),
    st.sampled_from(TYPES),
    st.sampled_from(["raw", "gzip", "ascii"]),
    st.sampled_from(["little", "big"]),
    st.booleans(),
    st.tuples(*[st.floats(-0.5, 0.5)] * 3),
)
def test_a_nrrd_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    plain: Grid,
    space: str,
    dtype: str,
    encoding: str,
    endian: str,
    detached: bool,
    shear: tuple[float, float, float],
) -> None:
    folder = tmp_path_factory.mktemp("nrrd")
    affine = plain.affine.copy()
    affine[:3, 2] += shear[0] * affine[:3, 0] + shear[1] * affine[:3, 1]
    affine[:3, 1] += shear[2] * affine[:3, 0]
    grid = Grid([min(size, 12) for size in plain.shape], affine)
    array = noise(grid.shape, dtype)
    path = folder / ("scan.nhdr" if detached else "scan.nrrd")
    write_nrrd(path, array, grid, space, encoding=encoding, endian=endian)
    volume = read_volume(path)
    assert_same(volume, array, grid)
    assert volume.notes == ()
    nifti = nib.Nifti1Image(array, grid.affine, dtype=array.dtype)
    nib.save(nifti, folder / "scan.nii")
    assert_same(read_volume(folder / "scan.nii"), array, volume.grid, tolerance_mm=1e-3)


@settings(max_examples=25, deadline=None)
@given(grids(), st.sampled_from(TYPES), st.sampled_from([".nrrd", ".nhdr", ".mha", ".mhd"]), st.booleans())
def test_what_itk_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, grid: Grid, dtype: str, suffix: str, compressed: bool
) -> None:
    folder = tmp_path_factory.mktemp("itk")
    grid = Grid([min(size, 12) for size in grid.shape], grid.affine)
    array = noise(grid.shape, dtype)
    image = simple_itk(array, grid)
    sitk.WriteImage(image, str(folder / f"scan{suffix}"), compressed)
    sitk.WriteImage(image, str(folder / "scan.nii.gz"))
    volume = read_volume(folder / f"scan{suffix}")
    assert_same(volume, array, grid, tolerance_mm=1e-4)
    assert_same(read_volume(folder / "scan.nii.gz"), array, volume.grid, tolerance_mm=2e-3)
    by_itk = read_volume(sitk.ReadImage(str(folder / f"scan{suffix}")))
    assert_same(by_itk, array, volume.grid)


META_WAYS: dict[str, dict[str, Any]] = {
    "little": {},
    "big": {"BinaryDataByteOrderMSB": True},
    "text": {"BinaryData": False},
    "zlib": {"CompressedData": True},
    "beside": {"ElementDataFile": "voxels.raw"},
    "beside, after a header": {"ElementDataFile": "voxels.raw", "HeaderSize": 5},
    "beside, zlib": {"ElementDataFile": "voxels.zraw", "CompressedData": True},
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("way", META_WAYS)
def test_a_metaimage_is_what_was_written(tmp_path: Path, dtype: str, way: str) -> None:
    array, fields = noise(dtype=dtype), dict(META_WAYS[way])
    data = array.astype(array.dtype.newbyteorder(">" if way == "big" else "<")).tobytes("F")
    if way == "text":
        data = "".join(f"{value} " for value in array.ravel("F")).encode()
    if "CompressedData" in fields:
        data = zlib.compress(data)
        fields["CompressedDataSize"] = len(data)
    if "ElementDataFile" in fields:
        (tmp_path / fields["ElementDataFile"]).write_bytes(bytes(fields.get("HeaderSize", 0)) + data)
    path = write_meta(tmp_path / "scan.mha", array, **fields, data=data)
    assert_same(read_volume(path), array, Grid(SHAPE, np.diag([-1, -2, 3, 1])))


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_truncated_file_is_an_error_never_other_values(
    tmp_path: Path, suffix: str, compressed: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(simple_itk(noise(), Grid(SHAPE, np.eye(4))), str(path), compressed)
    (data,) = [other for other in tmp_path.iterdir() if other != path] or [path]
    whole, content = read_volume(path), data.read_bytes()
    for length in {*np.linspace(1, len(content) - 1, 60).astype(int), len(content) - 1, len(content) - 8}:
        data.write_bytes(content[:length])
        assert failure(path)
    data.write_bytes(content + b"something after it")
    assert_same(read_volume(path), noise(), whole.grid)
    if data != path:
        data.write_bytes(content)
        head = path.read_bytes()
        for length in range(1, len(head) - 1, 7):
            path.write_bytes(head[:length])
            assert failure(path)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_damage_to_compressed_voxels_is_an_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(simple_itk(noise(), Grid(SHAPE, np.eye(4))), str(path), True)
    (data,) = [other for other in tmp_path.iterdir() if other != path] or [path]
    content = data.read_bytes()
    for place in range(len(content) - 300, len(content), 9):
        data.write_bytes(content[:place] + bytes((content[place] ^ 0x10,)) + content[place + 1 :])
        assert "truncated or damaged" in failure(path)


def nrrd_text(fields: str, data: bytes = b"", **changes: str) -> bytes:
    reported = {"type": "short", "dimension": "3", "sizes": "6 7 8", "encoding": "raw", "endian": "little", **changes}
    lines = "".join(f"{name}: {value}\n" for name, value in reported.items())
    return f"NRRD0004\n{lines}{fields}\n".encode() + data


RAW = noise().tobytes("F")
ZIPPED = gzip.compress(RAW)
LPS = "space: LPS\nspace directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (0,0,0)\n"
VECTOR = LPS.replace("directions:", "directions: none") + "kinds: {} domain domain domain\n"
HUGE = "60000 60000 60000"
NRRDS = {
    "the header declares 432000000000000 bytes of voxels, scan.nrrd has 672 bytes": nrrd_text(LPS, RAW, sizes=HUGE),
    "the header declares 432000000000000 bytes": nrrd_text(LPS, ZIPPED, sizes=HUGE, encoding="gzip"),
    "1344 bytes of voxels, scan.nrrd holds 672": nrrd_text(LPS, ZIPPED, sizes="6 7 16", encoding="gzip"),
    "too large for current architecture": nrrd_text(LPS, RAW, sizes=" ".join(["4294967296"] * 3)),
    "couldn't parse element 2 of 336": nrrd_text(LPS, b"1 two 3 " * 200, encoding="ascii"),
    "bzip2 encoding not available": nrrd_text(LPS, RAW, encoding="bzip2"),
    "got 6×7×4×2 with 1 values": nrrd_text("", RAW, dimension="4", sizes="6 7 4 2"),
    "got 3×7×8 with 2 values": nrrd_text(VECTOR.format("vector"), RAW, dimension="4", sizes="2 3 7 8"),
    "got 2×7×8 with 3 values": nrrd_text(VECTOR.format("RGB-color"), RAW, dimension="4", sizes="3 2 7 8"),
    "expected one real value a voxel, got complex ones": nrrd_text(
        VECTOR.format("complex"), RAW * 2, dimension="4", sizes="2 3 7 8", type="float"
    ),
    "got 6×56 with 1 values": nrrd_text("", RAW, dimension="2", sizes="6 56"),
    "existance of all space vector coefficients": nrrd_text(LPS.replace("(1,", "(nan,"), RAW),
    "Zero-valued spacing is not supported": nrrd_text(LPS.replace("(1,", "(0,"), RAW),
    "expected three space directions, got none (0,2,0)": nrrd_text(LPS.replace("(1,0,0)", "none"), RAW),
    "Bad direction, determinant is 0": nrrd_text(LPS.replace("(1,0,0)", "(0,1,0)"), RAW),
    "couldn't parse type": nrrd_text(LPS, RAW, type="voxels"),
    "Cannot currently handle nrrdTypeBlock": nrrd_text(LPS + "block size: 2\n", RAW, type="block"),
    "already set field": nrrd_text(LPS + "sizes: 6 7 8\n", RAW),
    "expected a NRRD volume, got something else or a damaged file": b"NRD0004" + nrrd_text(LPS, RAW),
    "its header is damaged: 'type: xxxx": nrrd_text(LPS, RAW, type="x" * 5000),
    "its header is damaged: space directions: '(1e308,": nrrd_text(LPS.replace("(1,", "(1e308,"), RAW),
    "the header declares 927712935936 bytes of voxels": nrrd_text("", RAW, sizes="4294967296 36 3"),
    "its header is damaged: byte skip: '-1'": nrrd_text(LPS + "byte skip: -1\n", ZIPPED, encoding="gzip"),
    "the file is empty": b"",
}  # fmt: skip


@pytest.mark.parametrize("reported", NRRDS)
def test_what_is_wrong_with_a_nrrd(tmp_path: Path, reported: str) -> None:
    (tmp_path / "scan.nrrd").write_bytes(NRRDS[reported])
    assert reported in failure(tmp_path / "scan.nrrd")


METAS: dict[str, dict[str, Any]] = {
    "the header declares 432000000000000 bytes": {"DimSize": "60000 60000 60000"},
    "the header declares 1344 bytes of voxels, scan.mha has 672 bytes": {"DimSize": "6 7 16"},
    "the header declares 1344 bytes of voxels, scan.mha holds 672": {
        "DimSize": "6 7 16", "CompressedData": True, "data": zlib.compress(RAW),
    },
    "Zero-valued spacing": {"ElementSpacing": "nan 1 1"},
    "Bad direction": {"TransformMatrix": "0 0 0 0 0 0 0 0 0"},
    "got 6×7×4 with 2 values": {"DimSize": "6 7 4", "ElementNumberOfChannels": 2},
    "or of no scan: 'ElementType = MET_STRING'": {"ElementType": "MET_STRING"},
    "or of no scan: 'NDims = 4294967296'": {"NDims": 4294967296},
    "or of no scan: 'BinaryData = a'": {"BinaryData": "a"},
    "or of no scan: 'Name = xxxx": {"Name": "x" * 5000},
    "or of no scan: 'ndims = 3'": {"ndims": 3},
    "transformmatrix: '1e308": {"TransformMatrix": "1e308 0 0 1e308 1 0 0 0 1"},
    "declares -1 bytes of compressed voxels": {"CompressedData": True, "CompressedDataSize": -1},
    "declares 9999 bytes of compressed voxels, scan.mha has 672": {"CompressedData": True, "CompressedDataSize": 9999},
    "cannot be read": {"BinaryData": False, "data": b"1 two 3 " * 200},
    "got 6×7×4×2 with 1 values": {
        "NDims": 4, "DimSize": "6 7 4 2", "ElementSpacing": "1 1 1 1", "Offset": "0 0 0 0",
        "TransformMatrix": "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1",
    },
}  # fmt: skip


@pytest.mark.parametrize("reported", METAS)
def test_what_is_wrong_with_a_metaimage(tmp_path: Path, reported: str) -> None:
    assert reported in failure(write_meta(tmp_path / "scan.mha", noise(), **METAS[reported]))
    (tmp_path / "other.mha").write_bytes(RAW)
    assert failure(tmp_path / "other.mha") == "expected a MetaImage volume, got something else or a damaged file"


@pytest.mark.parametrize(
    "place",
    [
        "missing.raw", "../outside.raw", "{}/outside.raw", "pipe", "folder", "folder/inside.raw", "LIST", "LIST 2D",
        "list", "-", "LoCaL", "v%d.raw 1 8 1", "%d%n%n%n.raw", "%s.raw", "",
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_the_file_of_the_voxels_lies_beside_the_header(tmp_path: Path, suffix: str, place: str) -> None:
    folder = tmp_path / "scans"
    (folder / "folder").mkdir(parents=True)
    os.mkfifo(folder / "pipe")  # no process writes to it: opening it waits for ever
    (tmp_path / "outside.raw").write_bytes(RAW)
    for name in ("folder/inside.raw", "-", "%d%n%n%n.raw", "%s.raw", "LIST", "LIST 2D", "list"):
        (folder / name).write_bytes(RAW)  # ITK would read something else for each of them
    path = folder / f"scan{suffix}"
    place = place.format(tmp_path)
    if suffix == ".nhdr":
        path.write_bytes(nrrd_text(f"{LPS}data file: {place}\n"))
    else:
        write_meta(path, noise(), ElementDataFile=place)
    assert failure(path) in (
        f"expected its voxels in one file beside it, got {place!r}",
        f"expected its voxels in a file beside it, there is no file {place!r}",
    )


def test_a_nrrd_that_does_not_say_where_the_patient_is_says_so(tmp_path: Path) -> None:
    path = tmp_path / "scan.nrrd"
    sides = "its header does not say where the patient's left, back and head are: taken as LPS, as ITK does"
    sizes = "its header does not say how large its voxels are: taken as 1 mm"
    for fields, notes, spacing in (
        ("spacings: 1 2 3\n", (sides,), (1, 2, 3)),
        ("", (sides, sizes), (1, 1, 1)),
        ("spacings: nan 2 3\n", (sides, sizes), (1, 2, 3)),
        (LPS.replace("space: LPS", "space dimension: 3"), (sides,), (1, 2, 3)),
        (LPS.replace("LPS", "scanner-xyz"), (sides,), (1, 2, 3)),
    ):
        path.write_bytes(nrrd_text(fields, RAW))
        volume = read_volume(path)
        assert volume.notes == notes
        assert_same(volume, noise(), Grid(SHAPE, np.diag([-spacing[0], -spacing[1], spacing[2], 1])))


def test_a_long_key_and_value_of_a_nrrd_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "scan.nrrd").write_bytes(nrrd_text(f"{LPS}note:={'x' * 90000}\n", RAW))
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.nrrd").array, noise())


def test_the_voxels_may_have_a_name_in_any_language(tmp_path: Path) -> None:
    (tmp_path / "Schädel.raw").write_bytes(RAW)
    (tmp_path / "scan.nhdr").write_bytes(nrrd_text(f"{LPS}data file: Schädel.raw\n"))
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.nhdr").array, noise())
    np.testing.assert_array_equal(
        read_volume(write_meta(tmp_path / "scan.mhd", noise(), ElementDataFile="Schädel.raw")).array, noise()
    )


def test_a_fourth_axis_of_one_is_one_volume(tmp_path: Path) -> None:
    (tmp_path / "scan.nrrd").write_bytes(nrrd_text("", RAW, dimension="4", sizes="6 7 8 1"))
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.nrrd").array, noise())


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd"])
def test_what_itk_keeps_of_a_dicom_header_is_no_damage(tmp_path: Path, suffix: str) -> None:
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    image.SetMetaData("0008|0008", "ORIGINAL\\PRIMARY\\AXIAL")
    image.SetMetaData("0008|1030", "long " * 500)
    sitk.WriteImage(image, str(tmp_path / f"scan{suffix}"))
    np.testing.assert_array_equal(read_volume(tmp_path / f"scan{suffix}").array.T, sitk.GetArrayFromImage(image))

"""DICOM's values are right in every encoding, and no damaged stream reaches a decoder that would crash."""

from __future__ import annotations

import locale
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from support.dicoms import write_enhanced, write_series
from tomoseg import Grid, TomosegError, Volume, read_volume
from tomoseg.data.dicom.codestream import CodestreamError, check_codestream

SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG lossless": JPEGLosslessSV1,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
}
STREAMS = {name: SYNTAXES[name] for name in ("JPEG lossless", "JPEG-LS", "JPEG 2000")}
ROWS, COLUMNS = 48, 40
GRID = Grid((COLUMNS, ROWS, 3), np.diag([0.7, 0.8, 2.5, 1]))


def smooth(dtype: str = "int16", bits: int = 16) -> NDArray[Any]:
    """Values that compress well, and noise in the last digits."""
    i, j, k = np.ogrid[:COLUMNS, :ROWS, :3]
    noise = np.random.default_rng(0).integers(0, 8, GRID.shape)
    waves = 40 * np.sin(i / 7) + 2 * j - 20 * k + 90 + noise
    values: NDArray[Any] = waves if bits == 8 else 7 * waves - 800 * (dtype == "int16")
    return values.astype(dtype)


@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([("uint8", 8), ("uint16", 8), ("uint16", 12), ("uint16", 16), ("int16", 12), ("int16", 16)]),
    st.floats(-3, 3).filter(lambda slope: abs(slope) > 0.01),
    st.floats(-2000, 2000),
    st.sampled_from(["CT", "MR", "enhanced"]),
)
def test_every_transfer_syntax_holds_the_same_values(
    tmp_path_factory: pytest.TempPathFactory,
    syntax: str,
    stored: tuple[str, int],
    slope: float,
    intercept: float,
    kind: str,
) -> None:
    dtype, bits = stored
    assume(syntax != RLELossless or stored != ("uint16", 8))  # pydicom's encoder drops the upper bytes, and must not
    array = smooth(dtype, bits)
    folder = tmp_path_factory.mktemp("values")
    if kind == "enhanced":
        source = write_enhanced(folder / "all.dcm", array, GRID, slope=slope, intercept=intercept, syntax=syntax)
    else:
        reported: Any = {"slope": slope, "intercept": intercept, "BitsStored": bits, "HighBit": bits - 1}
        write_series(folder, array, GRID, modality=kind, syntax=syntax, **reported)
        source = folder
    # decimal strings have 16 characters
    slope, intercept = (float(f"{value:.9g}") for value in (slope, intercept))
    volume = read_volume(source)
    np.testing.assert_allclose(
        volume.array, (array * np.float64(slope) + intercept).astype("float32"), rtol=1e-6, atol=1e-4
    )
    np.testing.assert_array_equal(volume.array[0, 0].argsort(), (array[0, 0] * slope).argsort())


def test_eight_bits_of_jpeg_are_read_as_others_read_them(tmp_path: Path) -> None:
    paths = write_series(tmp_path, smooth("uint8", 8), GRID, modality="MR", syntax=JPEGBaseline8Bit)
    by_pillow = []
    for path in paths:
        dataset = dcmread(path)
        by_pillow.append(
            np.asarray(Image.open(BytesIO(next(generate_frames(dataset.PixelData, number_of_frames=1))))).T
        )
    np.testing.assert_array_equal(read_volume(tmp_path).array, np.stack(by_pillow, axis=-1))


@settings(max_examples=20, deadline=None)
@given(
    slopes=st.lists(st.floats(0.01, 9), min_size=3, max_size=3),
    intercepts=st.lists(st.integers(-900, 900), min_size=3, max_size=3),
)
def test_each_slice_has_a_slope_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, slopes: list[float], intercepts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("slopes")
    array = smooth()
    wanted = np.empty(array.shape)
    for k, path in enumerate(write_series(folder, array, GRID, modality="MR")):
        dataset = dcmread(path)
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{slopes[k]:.8g}", intercepts[k]
        dataset.save_as(path)
        wanted[:, :, k] = array[:, :, k] * float(f"{slopes[k]:.8g}") + intercepts[k]
    np.testing.assert_array_equal(read_volume(folder).array, wanted.astype("float32"))


@pytest.mark.parametrize("representation", [0, 1])
def test_bits_that_are_not_used_do_not_count(tmp_path: Path, representation: int) -> None:
    array = smooth("int16" if representation else "uint16") % 2048 - 1024 * representation
    dirty = (array & 0x0FFF) | (np.random.default_rng(1).integers(0, 16, array.shape) << 12)
    elements: dict[str, Any] = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": representation}
    write_series(tmp_path / "low", dirty.astype("uint16"), GRID, modality="MR", **elements)
    np.testing.assert_array_equal(read_volume(tmp_path / "low").array, array)
    shifted = (array << 3) | np.random.default_rng(2).integers(0, 8, array.shape)  # and below
    write_series(tmp_path / "mid", shifted.astype("uint16"), GRID, modality="MR", **{**elements, "HighBit": 14})
    np.testing.assert_array_equal(read_volume(tmp_path / "mid").array, array)


def outcome_of(path: Path) -> Volume | str:
    try:
        return read_volume(path)
    except TomosegError as error:
        return str(error)


@pytest.mark.parametrize("bits", [7, 8])
def test_eight_bits_of_which_some_are_not_used_do_not_crash_gdcm(tmp_path: Path, bits: int) -> None:
    array = smooth("uint8", 8) >> (8 - bits)
    write_series(tmp_path, array, GRID, syntax=JPEGLosslessSV1, BitsStored=bits, HighBit=bits - 1)
    np.testing.assert_array_equal(read_volume(tmp_path).array, array)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("representation", [0, 1])
def test_lossless_jpeg_of_fewer_bits_than_gdcm_writes(tmp_path: Path, bits: int, representation: int) -> None:
    array = np.random.default_rng(0).integers(0, 1 << bits, GRID.shape)
    # the first pixel is predicted as 1 << (bits - 1), each other one by its neighbour (ITU-T T.81, H.1.2.1)
    written = (array + (1 << 15) - (1 << (bits - 1))).astype("uint16")
    for path in write_series(tmp_path, written, GRID, syntax=JPEGLosslessSV1):
        dataset = dcmread(path)
        stream = bytearray(next(generate_frames(dataset.PixelData, number_of_frames=1)))
        stream[6] = dataset.BitsStored = bits
        dataset.PixelData = encapsulate([bytes(stream)])
        dataset.HighBit, dataset.PixelRepresentation = bits - 1, representation
        dataset.save_as(path)
    signed = array - (array >> (bits - 1) << bits)  # two's complement
    np.testing.assert_array_equal(read_volume(tmp_path).array, signed if representation else array)


@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
def test_a_truncated_file_is_an_error_never_other_values(tmp_path: Path, syntax: str) -> None:
    path = write_series(tmp_path, smooth(), GRID, syntax=syntax)[1]
    whole, content = read_volume(tmp_path), path.read_bytes()
    errors = 0
    for length in np.linspace(200, len(content) - 1, 40).astype(int):
        path.write_bytes(content[:length])
        outcome = outcome_of(tmp_path)
        if isinstance(outcome, str):
            errors += 1
            assert outcome.startswith((f"{path}: ", f"{tmp_path}: "))
            assert "\n" not in outcome
        else:
            np.testing.assert_array_equal(outcome.array, whole.array)
    assert errors > 36  # what follows the values may be missing


@pytest.mark.parametrize(
    ("name", "decoder"),
    [
        ("693_J2KI.dcm", "gdcm"),
        ("J2K_pixelrep_mismatch.dcm", "gdcm"),
        ("MR_small_RLE.dcm", "pydicom"),
        ("MR_small_jp2klossless.dcm", "pillow"),
        ("MR_small_jpeg_ls_lossless.dcm", "gdcm"),
    ],
)
def test_streams_from_elsewhere_are_read_as_by_another_decoder(tmp_path: Path, name: str, decoder: str) -> None:
    source = get_testdata_file(name, download=False)
    assert isinstance(source, str)
    other = dcmread(source)
    other.pixel_array_options(decoding_plugin=decoder)
    values = other.pixel_array * float(other.get("RescaleSlope", 1)) + float(other.get("RescaleIntercept", 0))
    for k in range(3):
        dataset = dcmread(source)
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, z + 2 * k]
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.{k}")
        dataset.save_as(tmp_path / f"{k}.dcm")
    volume = read_volume(tmp_path)
    for k in range(3):
        np.testing.assert_array_equal(volume.array[:, :, k].T, values.astype("float32"))


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000", "JPEGLS"])
def test_streams_that_itk_writes_are_read(tmp_path: Path, compressor: str) -> None:
    path = write_series(tmp_path / "plain", smooth("uint16"), GRID, modality="MR")[0]
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(tmp_path / "packed.dcm"))
    writer.KeepOriginalImageUIDOn()
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    language = locale.setlocale(locale.LC_ALL)
    writer.Execute(sitk.ReadImage(str(path)))
    locale.setlocale(locale.LC_ALL, language)  # GDCM leaves it at C, where open() reads ASCII
    packed = dcmread(tmp_path / "packed.dcm")
    stream = next(generate_frames(packed.PixelData, number_of_frames=1))
    check_codestream(stream, packed.file_meta.TransferSyntaxUID, ROWS, COLUMNS, 16)
    np.testing.assert_array_equal(packed.pixel_array, dcmread(path).pixel_array)


def stream_of(syntax: str, tmp_path: Path) -> bytes:
    paths = write_series(tmp_path, smooth("uint8", 8) if syntax == JPEGBaseline8Bit else smooth(), GRID, syntax=syntax)
    return next(generate_frames(dcmread(paths[0]).PixelData, number_of_frames=1))


# GDCM 3.2.6 aborts, or reads past its buffers, on most of these; CharLS works for minutes on the sizes
DAMAGE = {
    "JPEG lossless": {
        "pixels, expected 48×40": (7, b"\xff\xff"),
        "128 bits a pixel": (6, b"\x80"),
        "3 values a pixel": (11, b"\x03"),
        "header of the compressed image is damaged$": (16, b"\xc8"),
        "damaged or truncated": (17, b"\xff\xff"),
        "a table of the compressed image": (20, b"\xff\xff"),
        "does not start as one": (0, b"\x00"),
    },
    "JPEG-LS": {
        "pixels, expected 48×40": (7, b"\xff\xff"),
        "1 bits a pixel": (6, b"\x01"),
        "does not start as one": (1, b"\xd9"),
        "header of the compressed image is damaged$": (2, b"\x00"),
    },
    "JPEG 2000": {
        "pixels, expected 48×40": (10, b"\x01"),
        "257 values a pixel": (40, b"\x01"),
        "more than 4096 tiles": (8, b"\x01"),
        "header of the compressed image is damaged$": (24, bytes(4)),
        "127 bits a pixel": (42, b"\x7e"),
        "does not start as one": (2, b"\x00"),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_header_of_a_stream_never_reaches_the_decoder(tmp_path: Path, name: str) -> None:
    stream = stream_of(STREAMS[name], tmp_path / "whole")
    check_codestream(stream, STREAMS[name], ROWS, COLUMNS, 16)
    for bits in (1, 12, 32, 64):
        with pytest.raises(CodestreamError, match=f"expected 8 or 16 bits a pixel of a compressed image, got {bits}"):
            check_codestream(stream, STREAMS[name], ROWS, COLUMNS, bits)
    for message, (place, value) in DAMAGE[name].items():
        damaged = stream[:place] + value + stream[place + len(value) :]
        with pytest.raises(CodestreamError, match=message):
            check_codestream(damaged, STREAMS[name], ROWS, COLUMNS, 16)


@pytest.mark.parametrize("syntax", [*STREAMS.values(), JPEGBaseline8Bit], ids=[*STREAMS, "JPEG"])
def test_a_stream_that_ends_early_or_holds_another_is_refused(tmp_path: Path, syntax: str) -> None:
    stream = stream_of(syntax, tmp_path)
    bits = 8 if syntax == JPEGBaseline8Bit else 16
    for padding in (b"", b"\0", b"\0\0"):
        check_codestream(stream.rstrip(b"\0") + padding, syntax, ROWS, COLUMNS, bits)
    for length in range(len(stream.rstrip(b"\0")) - 2):
        with pytest.raises(CodestreamError):
            check_codestream(stream[:length], syntax, ROWS, COLUMNS, bits)
    middle = len(stream) // 2
    if syntax != JPEG2000Lossless:
        with pytest.raises(CodestreamError, match="damaged"):
            check_codestream(stream[:middle] + stream, syntax, ROWS, COLUMNS, bits)


def test_what_nothing_can_decode_is_an_error_of_one_line(tmp_path: Path) -> None:
    write_series(tmp_path, smooth("uint8", 8), GRID, syntax=JPEGBaseline8Bit)
    for path in tmp_path.iterdir():
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = UID(JPEGExtended12Bit)
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.save_as(path)
    with pytest.raises(TomosegError, match=rf"^{tmp_path}/IM\d+: its pixels cannot be read: .*") as caught:
        read_volume(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless])
def test_a_header_that_declares_more_than_its_file_holds(tmp_path: Path, syntax: str) -> None:
    paths = write_series(tmp_path, smooth(), GRID, syntax=syntax)
    for path in paths:
        dataset = dcmread(path)
        dataset.Rows = dataset.Columns = 65535
        dataset.save_as(path)
    with pytest.raises(TomosegError, match="truncated or damaged: the header declares 8589672450 bytes"):
        read_volume(tmp_path)


def test_frames_are_found_without_an_offset_table_and_in_fragments(tmp_path: Path) -> None:
    array = smooth()
    write_series(tmp_path, array, GRID, syntax=JPEG2000Lossless)
    for path in tmp_path.iterdir():
        dataset = dcmread(path)
        stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
        dataset.PixelData = encapsulate([stream], fragments_per_frame=4, has_bot=False)
        dataset.save_as(path)
    np.testing.assert_array_equal(read_volume(tmp_path).array, array)

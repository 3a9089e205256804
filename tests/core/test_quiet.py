"""What libraries warn of reaches the notes of what a thread reads, and never the screen."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from tomoseg import TomosegError
from tomoseg.core.notes import collect_notes
from tomoseg.core.quiet import note_warnings, suppress_warnings
from tomoseg.core.reader_process import _end_reading
from tomoseg.data.header import read_headers
from tomoseg.data.itk_image import read_itk
from tomoseg.data.nifti import load_nifti
from tomoseg.data.read import read_volume


def raise_all(name: str) -> None:
    warnings.warn(f"{name} by Python", stacklevel=2)
    np.log(np.array([-1.0]))
    logging.getLogger(f"library.{name}").warning("%s logged", name)
    logging.getLogger(f"library.{name}").info("below the level of a warning")


def test_two_scans_that_overlap_keep_their_notes_apart(capfd: pytest.CaptureFixture[str]) -> None:
    """While one thread collects, another drops, and a third begins and ends in between."""
    gate = threading.Barrier(3, timeout=60)
    found: dict[str, list[str]] = {}

    def read(name: str) -> None:
        with collect_notes() as notes, note_warnings():
            gate.wait()
            raise_all(name)
            gate.wait()
            raise_all(f"{name} again")
        found[name] = notes

    def drop() -> None:
        gate.wait()
        with suppress_warnings():
            raise_all("dropped")
        gate.wait()

    with ThreadPoolExecutor(3) as pool:
        for one in [pool.submit(read, "a"), pool.submit(read, "b"), pool.submit(drop)]:
            one.result()
    numpy = "invalid value encountered in log"
    for name in "ab":
        again = [f"{name} again by Python", f"{name} again logged"]
        assert found[name] == [f"{name} by Python", numpy, f"{name} logged", *again]
    assert capfd.readouterr() == ("", "")


def test_everything_is_as_before_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    state = (warnings.showwarning, list(warnings.filters), logging.Logger.callHandlers)
    with suppress_warnings(), note_warnings():
        pass
    assert (warnings.showwarning, list(warnings.filters), logging.Logger.callHandlers) == state
    logging.getLogger("library").warning("heard")
    assert "heard" in caplog.text


def test_errors_are_still_logged(caplog: pytest.LogCaptureFixture) -> None:
    with suppress_warnings():
        logging.getLogger("library").error("heard")
    assert "heard" in caplog.text


def test_what_is_quoted_may_be_the_patients() -> None:
    with collect_notes() as notes, note_warnings():
        warnings.warn("invalid value for VR PN: 'Doe^Jane'", stacklevel=1)
    assert notes == ["invalid value for VR PN: …"]


def test_what_itk_prints_is_heard(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkFloat32), str(tmp_path / "a.mha"))
    read_itk(tmp_path / "a.mha")
    paths = []
    for k, z in enumerate((0, 1, 5)):
        part = sitk.Image(4, 4, 1, sitk.sitkFloat32)
        part.SetOrigin((0, 0, z))
        paths.append(str(tmp_path / f"{k}.mha"))
        sitk.WriteImage(part, paths[-1])
    with collect_notes() as notes, note_warnings():
        sitk.ReadImage(paths)
    (note,) = notes
    assert note.startswith("Non uniform sampling or missing slices detected")
    assert capfd.readouterr() == ("", "")


def damage(path: Path, at: int, value: bytes) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:at] + value + content[at + len(value) :])


@pytest.mark.parametrize("reader", [read_volume, read_headers, load_nifti])
def test_errors_that_libraries_print_do_not_reach_the_screen(
    reader: Callable[[Path], object], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _end_reading()  # a new reader process has this test's screen
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), np.float32), np.eye(4)), tmp_path / "a.nii")
    damage(tmp_path / "a.nii", 344, b"nx1")  # nibabel logs an error
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkFloat32), str(tmp_path / "a.mha"))
    content = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(content.replace(b"ElementType", b"ElementTipe"))  # MetaIO prints one
    for path in tmp_path.iterdir():
        with pytest.raises(TomosegError):
            reader(path)
    assert capfd.readouterr() == ("", "")


def test_a_library_warns_of_a_scan_in_its_notes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    image = nib.Nifti1Image(np.random.default_rng(0).random((8, 8, 8)).astype(np.float32), np.eye(4))
    nib.save(image, tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[80:84] = np.float32(-1).tobytes()  # a voxel size below 0
    (tmp_path / "a.nii").write_bytes(content)
    assert any("pixdim[1,2,3] should be positive" in note for note in read_volume(tmp_path / "a.nii").notes)
    assert capfd.readouterr() == ("", "")

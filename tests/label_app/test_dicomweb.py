"""MONAI Label's server over a DICOMweb archive, with the viewer that comes with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from pydicom import dcmread

from support.browser import Browser, running_browser
from support.command_line import run_inside, run_process
from support.dicom_results import run_dciodvfy
from support.label_server import Server, require_monailabel, running_server
from support.orthanc import Orthanc, running_orthanc
from support.waiting import wait_until
from tomoseg import Segmenter, read_volume
from tomoseg.data.dicom.seg_writer import write_dicom_seg
from tomoseg.data.dicom.series import read_header
from tomoseg.data.labels import unnamed
from tomoseg.data.segments import LabelMap

pytestmark = pytest.mark.slow
NAME = "hippocampus_mr_segmentation"
AXIAL = (slice(100, 800), slice(290, 625))  # pixels of the first of three viewports
SLICE_PIXELS = 312  # across its slice of 40 voxels


@pytest.fixture(scope="module")
def archive(dicom_scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An archive that holds a crop around one hippocampus."""
    require_monailabel()
    with running_orthanc(tmp_path_factory.mktemp("archive")) as running:
        for path in sorted(dicom_scan.iterdir()):
            running.add(path)
        yield running


@pytest.fixture(scope="module")
def server(archive: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    cache = str(folder / "cache")
    with running_server(folder, archive.dicomweb, "-b", NAME, MONAI_LABEL_DICOMWEB_CACHE_PATH=cache) as running:
        yield running


@pytest.fixture(scope="module")
def uid(dicom_scan: Path) -> str:
    return str(read_header(next(dicom_scan.iterdir())).SeriesInstanceUID)


@pytest.fixture(scope="module")
def expected(dicom_scan: Path) -> Any:
    return Segmenter.from_bundle(NAME, device="cpu")(dicom_scan)


def test_an_image_of_the_archive_is_segmented(server: Server, uid: str, expected: Any) -> None:
    assert server.client.info()["datastore"]["total"] == 1
    sample = server.client.next_sample("random", {})
    assert sample["id"] == uid
    path, reported = server.client.infer(NAME, uid, {"result_extension": ".nrrd"})
    found = read_volume(path)
    np.testing.assert_array_equal(found.array, expected.labels)
    assert found.grid.matches(expected.grid)
    assert reported["label_names"] == {"anterior": 1, "posterior": 2}
    status, answer = server.ask("POST", f"/infer/{NAME}", image="1.2.3.4")
    assert (status, b"no such image in the studies" in answer) == (422, True)


def test_the_viewer_shows_a_segmentation(
    server: Server, dicom_scan: Path, viewer: Browser, expected: Any, tmp_path: Path
) -> None:
    study = str(dcmread(next(dicom_scan.iterdir()), stop_before_pixels=True).StudyInstanceUID)
    viewer.open(f"{server.url}/ohif/monai-label?StudyInstanceUIDs={study}", width=1600)
    wait_for(viewer, "document.querySelector('#monailabelServerURL')")
    wait_for(viewer, "document.querySelectorAll('canvas').length >= 1")
    before = tmp_path / "before.png"
    wait_until(lambda: axial(viewer, before)[..., :3].max() > 0.5 and is_still(viewer, before), "the slices")
    # MONAI Label's panel takes port 8000 for granted
    viewer.evaluate("document.querySelector('#monailabelServerURL').select()")
    viewer.type(f"{server.url}/")
    viewer.click(".settingsTable button")
    viewer.click(".settingsTable button")  # the first time it still asks the old address
    wait_for(viewer, "[...document.querySelectorAll('.tab-label')].some(one => one.innerText.includes('Auto'))")
    wait_for(viewer, f"[...document.querySelectorAll('.modelSelector')].some(one => one.innerText.includes('{NAME}'))")
    viewer.evaluate(
        "[...document.querySelectorAll('.modelSelector')]"
        f".find(one => one.innerText.includes('{NAME}')).querySelector('button').click()"
    )
    wait_for(viewer, "document.body.innerText.includes('Running Segmentation - Successful')")
    after, plain = tmp_path / "after.png", imread(before)[AXIAL]
    shown = expected.labels[:, :, 20].any(axis=1).sum() / expected.labels.shape[0]

    def has_its_width() -> bool:
        changed = np.abs(axial(viewer, after) - plain)[..., :3].max(axis=-1) > 0.05
        columns = np.flatnonzero(changed.any(axis=0))
        return len(columns) > 0 and abs(np.ptp(columns) / SLICE_PIXELS - shown) <= 0.1

    wait_until(has_its_width, "the labels, as wide as the hippocampus is")


def axial(viewer: Browser, path: Path) -> Any:
    """Return what the first of three viewports shows now."""
    viewer.screenshot(path, whole=False)
    return imread(path)[AXIAL]


def is_still(viewer: Browser, path: Path) -> bool:
    return np.array_equal(imread(path)[AXIAL], axial(viewer, path))


def wait_for(viewer: Browser, condition: str) -> None:
    wait_until(lambda: viewer.evaluate(f"Boolean({condition})"), condition)


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("profile"), application=True) as running:
        yield running


def segmentation(path: Path, scan: Path, labels: Any, names: list[str], date: str) -> Path:
    """Write a segmentation of a series as another program might, and return its path."""
    image = read_volume(scan)
    table = tuple(replace(unnamed(value), name=name) for value, name in enumerate(names, 1))
    write_dicom_seg(path, LabelMap(labels, image.grid, table, "Another Program", "1", series=image.series))
    dataset = dcmread(path)
    dataset.ContentDate = date
    dataset.save_as(path)
    return path


def test_labels_of_other_programs_do_not_count(
    server: Server, archive: Orthanc, uid: str, expected: Any, dicom_scan: Path, tmp_path: Path
) -> None:
    archive.add(segmentation(tmp_path / "liver.dcm", dicom_scan, np.minimum(expected.labels, 1), ["Liver"], "20300101"))
    assert server.client.next_sample("random", {})["id"] == uid
    assert server.ask("GET", "/datastore/label", label=uid, tag="final")[0] == 404


def test_a_final_label_goes_back_as_a_segmentation(
    server: Server, archive: Orthanc, uid: str, expected: Any, dicom_scan: Path, tmp_path: Path
) -> None:
    from monailabel.client import MONAILabelClient

    path, reported = server.client.infer(NAME, uid, {"result_extension": ".nii.gz"})
    names = [{"name": name, "idx": value} for name, value in reported["label_names"].items()]
    client = MONAILabelClient(server.url, client_id="ann")
    client.save_label(uid, path, params={"label_info": names})
    found = [dcmread(path) for series in archive.series("SEG") for path in archive.fetch(series, tmp_path)]
    (dataset,) = (one for one in found if one.SegmentSequence[0].SegmentLabel != "Liver")
    assert {one.SegmentAlgorithmType for one in dataset.SegmentSequence} == {"SEMIAUTOMATIC"}
    assert dataset.SegmentSequence[0].SegmentAlgorithmName == NAME
    assert str(dataset.ContentCreatorName) == "ann^"
    assert dataset.SoftwareVersions[-1] == f"{NAME} weights 0"
    complaints = run_dciodvfy(archive.fetch(archive.series("SEG")[-1], tmp_path)[0])
    assert not [line for line in complaints if line.startswith("Error")]
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == uid
    assert [one.SegmentLabel for one in dataset.SegmentSequence] == ["anterior", "posterior"]
    assert dataset.PatientID == dcmread(next(dicom_scan.iterdir())).PatientID
    np.testing.assert_array_equal(place(dataset, expected), expected.labels)
    assert server.client.next_sample("random", {}) == {}  # nothing is left to label


def test_the_newest_labels_of_an_image_count(
    server: Server, archive: Orthanc, uid: str, expected: Any, dicom_scan: Path, tmp_path: Path
) -> None:
    """Their segments are numbered otherwise, and have names in other letters, or codes."""
    newest = np.where(expected.labels == 1, 2, 0).astype(np.uint8)
    newest[20:] = 0
    archive.add(segmentation(tmp_path / "newest.dcm", dicom_scan, newest, ["Other", "ANTERIOR"], "20310101"))
    archive.add(segmentation(tmp_path / "old.dcm", dicom_scan, expected.labels, ["posterior", "anterior"], "20010101"))
    path = server.client.download_label(uid, "final")
    np.testing.assert_array_equal(read_volume(path).array, newest // 2)


def test_an_earlier_submission_goes_back_to_the_archive(
    server: Server, archive: Orthanc, uid: str, expected: Any, tmp_path: Path
) -> None:
    cache = str(server.app.parent / "cache")
    done = run_process("label-app", server.app, "--history", uid, "--restore", 1, MONAI_LABEL_DICOMWEB_CACHE_PATH=cache)
    assert done.returncode == 0, done.stderr
    assert "restored from version 1" in done.stdout
    listed = run_inside("label-app", server.app, "--history", uid).stdout.splitlines()
    assert [line.partition(", 20")[0] for line in listed] == [
        f"{uid}: version 1 by ann", f"{uid}: version 2 by someone unknown", f"{uid}: version 3 by ann"
    ]  # fmt: skip
    found = [dcmread(path) for series in archive.series("SEG") for path in archive.fetch(series, tmp_path)]
    newest = max((one for one in found if one.ContentDate < "2030"), key=lambda one: one.ContentDate + one.ContentTime)
    np.testing.assert_array_equal(place(newest, expected), expected.labels)


def place(dataset: Any, expected: Any) -> Any:
    """Return the labels of a segmentation at the positions that its frames name, on the scan's grid."""
    labels = np.zeros_like(expected.labels)
    to_voxel = np.linalg.inv(expected.grid.affine)
    for frame, group in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array([float(part) for part in group.PlanePositionSequence[0].ImagePositionPatient])
        i, j, k = (to_voxel @ np.append(position * (-1, -1, 1), 1))[:3]
        assert max(abs(i), abs(j), abs(k - round(k))) < 1e-3
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        labels[..., round(k)][frame.T != 0] = number
    return labels


def test_a_whole_head_of_the_archive(server: Server, archive: Orthanc, head_folder: Path, tmp_path: Path) -> None:
    import requests

    for path in head_folder.rglob("*.dcm"):
        archive.add(path)
    # the server looks at the list of series again after some seconds
    wait_until(lambda: server.client.info()["datastore"]["total"] == 2, "the second series")
    head = next(one for one in archive.series("MR") if len(one["Instances"]) > 100)
    uid = head["MainDicomTags"]["SeriesInstanceUID"]
    answer = requests.post(
        f"{server.url}/infer/{NAME}", params={"image": uid, "output": "dicom_seg"},
        data={"params": '{"overlap": 0}'}, timeout=600,
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    (tmp_path / "seg.dcm").write_bytes(answer.content)
    wanted = Segmenter.from_bundle(NAME, device="cpu", overlap=0)(head_folder)
    assert wanted.location is not None
    # both sides, found as everywhere else, with the labels of the model
    stored = dcmread(tmp_path / "seg.dcm")
    assert [one.SegmentLabel for one in stored.SegmentSequence] == ["anterior", "posterior"]
    np.testing.assert_array_equal(place(stored, wanted), np.array([0, 1, 2, 1, 2])[wanted.labels])
    archive.add(tmp_path / "seg.dcm")
    kept = {one["MainDicomTags"]["SeriesInstanceUID"] for one in archive.series("SEG")}
    assert stored.SeriesInstanceUID in kept

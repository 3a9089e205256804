"""`tomoseg label-server`: MONAI Label's own server and client, with scans in a folder, uploaded and in sessions."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from support.command_line import run_inside
from support.label_server import Server, free_port, require_monailabel, running_server
from tomoseg import LabelApp, Segmenter, read_volume

pytestmark = pytest.mark.slow
NAME = "hippocampus_mr_segmentation"
OTHER = "another_segmentation"


@pytest.fixture(scope="module")
def other_bundle(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second bundle: the same, with labels in other letters."""
    folder = tmp_path_factory.mktemp("bundles") / OTHER
    shutil.copytree(bundle_folder, folder, ignore=shutil.ignore_patterns("train", "eval"))
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"]["2"] = "Tail and Body"
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder


@pytest.fixture(scope="module")
def server(real_scan: Path, other_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    require_monailabel()
    folder = tmp_path_factory.mktemp("served")
    studies = folder / "studies"
    studies.mkdir()
    for name in ("one", "two", "three"):
        shutil.copy(real_scan, studies / f"{name}.nii.gz")
    (studies / "broken.nii.gz").write_bytes(real_scan.read_bytes()[:3000])
    with running_server(folder, str(studies), "-b", NAME, "-b", str(other_bundle)) as running:
        yield running


@pytest.fixture(scope="module")
def expected(real_scan: Path) -> Any:
    return Segmenter.from_bundle(NAME, device="cpu")(real_scan)


def values(path: str | Path) -> Any:
    return read_volume(path).array.astype(np.uint8)


def test_says_what_there_is(server: Server) -> None:
    info = server.client.info()
    assert set(info["models"]) >= {NAME, OTHER}
    one = info["models"][NAME]
    assert (one["type"], one["dimension"]) == ("segmentation", 3)
    assert one["labels"] == {"anterior": 1, "posterior": 2}
    assert one["label_colors"]["anterior"] == [31, 119, 180]
    assert {"device", "overlap", "largest_component", "tta"} <= one["config"].keys()
    assert info["models"][OTHER]["labels"] == {"anterior": 1, "tail and body": 2}
    assert {"anterior", "posterior", "tail and body"} <= set(info["labels"])
    assert info["datastore"]["total"] == 4


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".seg.nrrd"])
@pytest.mark.parametrize("compress", [True, False])
def test_segments_an_image_of_the_studies(
    server: Server, expected: Any, real_scan: Path, extension: str, compress: bool
) -> None:
    path, reported = server.client.infer(NAME, "one", {"result_extension": extension, "result_compress": compress})
    assert path.endswith(extension)
    np.testing.assert_array_equal(values(path), expected.labels)
    assert read_volume(path).grid.matches(read_volume(real_scan).grid)
    assert reported["label_names"] == {"anterior": 1, "posterior": 2}
    assert reported["volumes_ml"] == pytest.approx(expected.volumes_ml, abs=1e-3)


def test_a_slicer_segmentation_has_names_and_colours(server: Server) -> None:
    import slicerio

    path, _ = server.client.infer(OTHER, "one", {"result_extension": ".seg.nrrd"})
    segments = slicerio.read_segmentation(path)["segments"]
    assert [segment["name"] for segment in segments] == ["anterior", "tail and body"]
    assert segments[0]["color"] == pytest.approx([31 / 255, 119 / 255, 180 / 255], abs=1e-3)


def test_segments_uploads_and_sessions(server: Server, expected: Any, real_scan: Path) -> None:
    path, _ = server.client.infer(NAME, "", {}, file=str(real_scan))
    np.testing.assert_array_equal(values(path), expected.labels)
    session = server.client.create_session(str(real_scan))["session_id"]
    path, _ = server.client.infer(NAME, "", {"result_extension": ".nrrd"}, session_id=session)
    np.testing.assert_array_equal(values(path), expected.labels)
    server.client.remove_session(session)
    status, answer = server.ask("POST", f"/infer/{NAME}", session_id=session)
    assert (status, b"no such session" in answer) == (422, True)


def test_a_dicom_session_gives_a_dicom_segmentation(server: Server, dicom_scan: Path, tmp_path: Path) -> None:
    import requests
    from pydicom import dcmread

    files = [("files", (path.name, path.read_bytes())) for path in dicom_scan.iterdir()]
    answer = requests.put(f"{server.url}/session/", files=files, timeout=60)
    session = answer.json()["session_id"]
    status, content = server.ask("POST", f"/infer/{NAME}", session_id=session, output="dicom_seg")
    assert status == 200, content
    (tmp_path / "seg.dcm").write_bytes(content)
    dataset = dcmread(tmp_path / "seg.dcm")
    assert dataset.Modality == "SEG"
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == ["anterior", "posterior"]
    source = dcmread(next(dicom_scan.iterdir()))
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert dataset.PatientID == source.PatientID
    wanted = Segmenter.from_bundle(NAME, device="cpu")(dicom_scan)
    assert np.count_nonzero(dataset.pixel_array) == np.count_nonzero(wanted.labels)


def test_the_panel_changes_the_result(server: Server, real_scan: Path) -> None:
    path, _ = server.client.infer(NAME, "one", {"tta": "true", "overlap": "0.25", "device": ["cpu"]})
    wanted = Segmenter.from_bundle(NAME, device="cpu", tta=True, overlap=0.25)(real_scan)
    np.testing.assert_array_equal(values(path), wanted.labels)


@pytest.mark.parametrize(
    ("model", "image", "params", "status", "message"),
    [
        ("liver", "one", {}, 400, "model 'liver': expected one of hippocampus_mr_segmentation"),
        (NAME, "nobody", {}, 422, "image 'nobody': no such image in the studies"),
        (NAME, "", {}, 400, "expected image=ID, session_id=ID or an uploaded file, got none"),
        (NAME, "../studies/one", {}, 400, "image: expected a name without separators"),
        (NAME, "broken", {}, 422, "truncated or damaged"),
        (NAME, "one", {"overlap": 1.5}, 400, "overlap: expected a share from 0 to below 1, got 1.5"),
        (NAME, "one", {"overlap": "much"}, 400, "overlap: expected a number, got 'much'"),
        (NAME, "one", {"tta": "perhaps"}, 400, "tta: expected true or false, got 'perhaps'"),
        (NAME, "one", {"result_extension": ".png"}, 400, "result_extension: expected one of .nii.gz"),
        (NAME, "one", {"result_extension": ".dcm"}, 400, "dicom_seg: expected an image that was read from DICOM"),
    ],
)
def test_says_what_is_wrong(
    server: Server, model: str, image: str, params: dict[str, Any], status: int, message: str
) -> None:
    import requests

    url = f"{server.url}/infer/{model}"
    answer = requests.post(url, params={"image": image}, data={"params": json.dumps(params)}, timeout=60)
    assert answer.status_code == status
    assert message in answer.json()["detail"]
    assert server.client.info()["name"] == "tomoseg"  # and goes on


def test_opens_no_other_file_of_the_computer(server: Server, real_scan: Path) -> None:
    import requests

    status, _ = server.ask("POST", f"/infer/{NAME}", image=str(real_scan))
    assert status == 400
    params = {"image": str(real_scan), "model": NAME, "session": {"image": str(real_scan)}}
    answer = requests.post(
        f"{server.url}/infer/{NAME}", params={"image": "x"}, data={"params": json.dumps(params)}, timeout=60
    )
    assert answer.status_code == 422
    for name, wanted in ((str(real_scan), 400), ("absent", 200)):
        batch = {"images": [name], "device": "cpu"}
        status, content = server.ask("POST", f"/batch/infer/{NAME}", batch, run_sync="true")
        assert status == wanted
    assert "no such image in the studies" in json.loads(content)["absent"]["error"]


def test_answers_others_while_the_network_runs(server: Server, real_scan: Path, tmp_path: Path) -> None:
    scan = nib.load(real_scan)
    large = tmp_path / "large.nii.gz"
    nib.save(nib.Nifti1Image(np.tile(scan.get_fdata(dtype="float32"), (2, 2, 2)), scan.affine), large)
    ended: list[float] = []

    def run() -> None:
        server.client.infer(NAME, "", {}, file=str(large))
        ended.append(time.monotonic())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    answered = []
    while any(thread.is_alive() for thread in threads):
        begin = time.monotonic()
        assert server.ask("GET", "/info/")[0] == 200
        answered.append(time.monotonic() - begin)
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert len(ended) == 2
    assert len(answered) > 5
    assert sorted(answered)[len(answered) // 2] < 1


def test_no_other_web_page_may_ask(server: Server) -> None:
    import requests

    answer = requests.get(f"{server.url}/info/", headers={"Origin": "https://elsewhere.example"}, timeout=60)
    assert "access-control-allow-origin" not in {name.lower() for name in answer.headers}


def test_the_log_names_no_patient(server: Server, dicom_scan: Path) -> None:
    log = server.log.read_text() + (server.app / "logs" / "app.log").read_text()
    assert "Doe" not in log
    assert "warning: everybody" not in log


def test_wrong_usage_is_reported_in_one_line(server: Server, tmp_path: Path) -> None:
    taken = server.url.rpartition(":")[2]
    (tmp_path / "studies").mkdir()
    for arguments, message in (
        (("--studies", tmp_path / "nowhere"), "no such folder; expected one with scans"),
        (("--studies", tmp_path / "studies", "--port", taken), "cannot listen there"),
        (("--studies", tmp_path / "studies", "-b", "liver"), "bundle 'liver': no such name or folder"),
    ):
        done = run_inside("label-server", *arguments)
        assert done.returncode == 2, done.stdout + done.stderr
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


FOREIGN = {
    "main.py": "from tomoseg import x",
    ".env": "",
    "ignite.py": "",
    "lib/__init__.py": "",
    "numpy.so": "",
    "x/y.PYC": "",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_code_in_the_app_that_tomoseg_did_not_write_never_runs(name: str, tmp_path: Path) -> None:
    """MONAI Label runs main.py, which finds modules beside it first."""
    require_monailabel()
    app = tmp_path / "app"
    LabelApp(app).write([NAME])
    path = app / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n{FOREIGN[name]}")
    (app / "__pycache__").mkdir()
    (tmp_path / "studies").mkdir()
    done = run_inside("label-server", "--studies", tmp_path / "studies", "--app", app, "--port", free_port())
    assert done.returncode == 2
    assert f"{path}: MONAI Label would run it, and tomoseg did not write it" in done.stderr
    assert sorted(one.name for one in tmp_path.iterdir()) == ["app", "studies"]
    assert not (app / "__pycache__").exists()


def test_a_bundle_that_changes_while_it_is_served_runs_no_more(
    bundle_folder: Path, real_scan: Path, tmp_path: Path
) -> None:
    require_monailabel()
    root, studies = tmp_path / OTHER, tmp_path / "studies"
    shutil.copytree(bundle_folder, root, ignore=shutil.ignore_patterns("train", "eval"))
    studies.mkdir()
    shutil.copy(real_scan, studies / "one.nii.gz")
    with running_server(tmp_path, str(studies), "-b", str(root)) as running:
        assert running.ask_form(f"/infer/{OTHER}", {}, image="one")[0] == 200
        config = root / "configs" / "inference.json"
        changed = json.loads(config.read_text())
        changed["preprocessing"] = f"$open({str(tmp_path / 'marker')!r}, 'w')"
        config.write_text(json.dumps(changed))
        for options in ({}, {"overlap": 0.3}):
            status, answer = running.ask_form(f"/infer/{OTHER}", options, image="one")
            assert (status, b"this one is not trusted" in answer) == (500, True)
        assert running.ask("POST", f"/train/{OTHER}", {"max_epochs": 1})[0] < 500
        assert running.wait_for("train")["status"] == "ERROR"
        running.ask("POST", "/scoring/entropy", {})
        assert running.wait_for("scoring")["status"] in ("ERROR", "DONE")
    assert not (tmp_path / "marker").exists()


def test_other_computers_need_a_token(real_scan: Path, tmp_path: Path) -> None:
    require_monailabel()
    (tmp_path / "studies").mkdir()
    shutil.copy(real_scan, tmp_path / "studies" / "one.nii.gz")
    token = "a token for this test"
    with running_server(tmp_path, str(tmp_path / "studies"), "--host", "0.0.0.0", token=token) as running:
        log = running.log.read_text()
        assert "tomoseg: warning: others between 0.0.0.0 and a client can read scans and the token" in log
        assert f"/?token={token}" in log
        assert replace(running, token="").ask("GET", "/info/")[0] == 401

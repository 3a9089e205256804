"""What a web page, another user of the computer or a stranger may try on a label server, and what its clients need."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from support.command_line import run_inside
from support.label_server import Server, free_port, require_monailabel, running_server
from tomoseg.label_app.history import KEPT

pytestmark = pytest.mark.slow
NAME = "hippocampus_mr_segmentation"
TOKEN = "a token of the tests"
MAX_UPLOAD = 500_000


@pytest.fixture(scope="module")
def studies(real_scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "studies"
    folder.mkdir()
    shutil.copy(real_scan, folder / "one.nii.gz")
    (folder.parent / "secret.txt").write_text("what no request may read")
    return folder


@pytest.fixture(scope="module")
def server(studies: Path) -> Iterator[Server]:
    require_monailabel()
    with running_server(studies.parent, str(studies), "-b", NAME, "--max-upload", str(MAX_UPLOAD)) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    require_monailabel()
    folder = tmp_path_factory.mktemp("guarded")
    with running_server(folder, str(studies), "-b", NAME, token=TOKEN) as running:
        yield running


def ask(
    server: Server, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Send a request that no client mends, neither its address nor its headers."""
    place = urlsplit(server.url).netloc
    connection = http.client.HTTPConnection(place, timeout=60)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in ({"Host": place, "Content-Length": str(len(body))} | (headers or {})).items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return found


def form(name: str, filename: str, content: bytes = b"x", **fields: str) -> tuple[bytes, dict[str, str]]:
    parts = [f'--b\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n' for key, value in fields.items()]
    parts.append(f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n')
    body = "".join(parts).encode() + content + b"\r\n--b--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=b"}


def as_json(**content: Any) -> tuple[bytes, dict[str, str]]:
    return json.dumps(content).encode(), {"Content-Type": "application/json"}


UPLOAD = form("file", "scan.nii.gz")
LABEL = form("label", "label.nii.gz")
# method, address, (body, headers), status
GONE: dict[str, tuple[str, str]] = {
    "all again": ("POST", "/reload"),
    "whole slides": ("POST", f"/infer/wsi/{NAME}"),
    "whole slides 2": ("POST", f"/infer/wsi_v2/{NAME}"),
    "weights": ("GET", f"/model/{NAME}"),
    "put weights": ("PUT", f"/model/{NAME}"),
    "delete weights": ("DELETE", f"/model/{NAME}"),
    "delete a folder": ("DELETE", "/model/..%2f..%2fstudies"),
    "all data": ("GET", "/datastore/dataset"),
    "delete an image": ("DELETE", "/datastore/image?id=one"),
    "delete a label": ("DELETE", "/datastore/label?id=one&tag=final"),
    "change what is known of an image": ("PUT", "/datastore/image/info?image=one"),
    "change what is known of a label": ("PUT", "/datastore/updatelabelinfo?label=one&tag=final"),
    "logs": ("GET", "/logs/"),
    "the graphics card": ("GET", "/logs/gpu"),
    "Swagger": ("GET", "/docs"),
    "OpenAPI": ("GET", "/openapi.json"),
    "MONAI Label's files": ("GET", "/static/favicon.ico"),
    "an archive that is not there": ("GET", "/proxy/dicom/qido/studies"),
    "the proxy without a service": ("GET", "/proxy/dicom/studies/"),
}
REFUSED: dict[str, tuple[str, str, tuple[bytes, dict[str, str]], int]] = {
    "another host": ("GET", "/info/", (b"", {"Host": "evil.example"}), 403),
    "another host that is rebound": ("POST", f"/infer/{NAME}?image=one", (b"", {"Host": "evil.example:80"}), 403),
    "no host": ("GET", "/info/", (b"", {"Host": ""}), 403),
    "a host that is none": ("GET", "/info/", (b"", {"Host": "[::1"}), 403),
    "another page": ("POST", "/train/", (b"", {"Origin": "https://evil.example"}), 403),
    "a sandboxed page": ("POST", "/train/", (b"", {"Origin": "null"}), 403),
    "another port": ("POST", "/train/", (b"", {"Origin": "http://127.0.0.1:1"}), 403),
    "another scheme": ("DELETE", "/train/", (b"", {"Origin": "https://{place}"}), 403),
    "a form of another page": ("POST", f"/infer/{NAME}?image=one", (
        b"params=%7B%7D", {"Content-Type": "application/x-www-form-urlencoded", "Origin": "http://evil.example"}), 403),
    "a browser that tells": ("POST", "/train/", (b"", {"Sec-Fetch-Site": "cross-site"}), 403),
    "a picture in another page": ("GET", "/info/", (b"", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}),
                                  403),
    "an image by path": ("GET", "/datastore/image?image=../secret.txt", (b"", {}), 400),
    "an image by an absolute path": ("GET", "/datastore/image?image=/etc/passwd", (b"", {}), 400),
    "an image on Windows": ("GET", "/datastore/image?image=..%5Csecret.txt", (b"", {}), 400),
    "an image with NUL": ("GET", "/datastore/image?image=one%00.txt", (b"", {}), 400),
    "an image in two lines": ("GET", "/datastore/image?image=one%0Atwo", (b"", {}), 400),
    "a second image": ("GET", "/datastore/image?image=one&image=../secret.txt", (b"", {}), 400),
    "a label's tag": ("GET", "/datastore/label?label=one&tag=../../..", (b"", {}), 400),
    "a session": ("GET", "/session/..", (b"", {}), 400),
    "a session with a hidden separator": ("DELETE", "/session/..%2F..%2Fstudies", (b"", {}), 400),
    "a session with a hidden NUL": ("GET", "/session/a%00b", (b"", {}), 400),
    "a model": ("POST", f"/infer/..%2F{NAME}?image=one", (b"", {}), 400),
    "a path in JSON": ("POST", f"/batch/infer/{NAME}", as_json(images=["/etc/passwd"]), 400),
    "a path deep in JSON": ("POST", f"/train/{NAME}", as_json(a={"model": "../x"}), 400),
    "a label under another name": ("PUT", "/datastore/label?image=..%2Fone", LABEL, 400),
    "a label with a path as tag": ("PUT", "/datastore/label?image=one&tag=../x", LABEL, 400),
    "an image that is code": ("PUT", "/datastore/image?image=main", form("file", "main.py"), 400),
    "an image that the studies do not list": ("PUT", "/datastore/image?image=new", form("file", "scan.zip"), 400),
    "an image without a format": ("PUT", "/datastore/image?image=new", form("file", "scan"), 400),
    "an image of a path": ("PUT", "/datastore/?image=../main", UPLOAD, 400),
    "an image in place of another": ("PUT", "/datastore/image?image=one", UPLOAD, 409),
    "an image whose name is a path": ("PUT", "/datastore/image", form("file", ".."), 400),
    "a label that is code": ("PUT", "/datastore/label?image=one", form("label", "x.py"), 400),
    "a session that is a TAR": ("PUT", "/session/?uncompress=true", form("files", "x.tar.gz"), 400),
    "a scan that is no format": ("POST", f"/infer/{NAME}", form("file", "scan.exe"), 400),
    "parameters that are none": ("PUT", "/datastore/label?image=one", form("label", "x.nii", params="[1"), 400),
    "parameters that are too deep": ("PUT", "/datastore/label?image=one",
                                     form("label", "x.nii", params="[" * 100_000), 400),
    "a device that is a path": ("POST", f"/infer/{NAME}?image=one",
                                (urlencode({"params": '{"device": "../x"}'}).encode(),
                                 {"Content-Type": "application/x-www-form-urlencoded"}), 400),
    "too large": ("PUT", "/datastore/image?image=two", form("file", "scan.nii.gz", bytes(MAX_UPLOAD)), 413),
    "too large, as it says": ("PUT", "/session/", (b"", {"Content-Length": "99999999999"}), 413),
    "JSON too large": ("POST", "/train/", (b'"' + b"x" * 1_000_001 + b'"', {"Content-Type": "application/json"}), 413),
    "no length": ("POST", "/train/", (b"", {"Content-Length": "many"}), 400),
}  # fmt: skip


@pytest.mark.parametrize("name", GONE)
def test_what_no_client_needs_is_gone(server: Server, name: str) -> None:
    status, _, content = ask(server, *GONE[name])
    assert status in (400, 404, 405), content


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(server: Server, studies: Path, name: str) -> None:
    method, path, (body, headers), wanted = REFUSED[name]
    place = urlsplit(server.url).netloc
    before = sorted(one for one in studies.parent.rglob("*") if one.suffix not in (".log", ".lock"))
    status, found, content = ask(
        server, method, path, body, {key: value.replace("{place}", place) for key, value in headers.items()}
    )
    assert status == wanted, content
    assert b"what no request may read" not in content
    if status != 400 or found.get("content-type") == "application/json":  # uvicorn refuses some itself
        assert json.loads(content)["detail"]
    after = sorted(one for one in studies.parent.rglob("*") if one.suffix not in (".log", ".lock"))
    assert after == before
    assert server.client.info()["name"] == "tomoseg"  # and goes on


def test_a_body_without_an_end_is_cut_off(server: Server) -> None:
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port), timeout=60) as client:
        client.sendall(
            f"PUT /datastore/image?image=two HTTP/1.1\r\nHost: {place.netloc}\r\nTransfer-Encoding: chunked\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode()
        )
        head, chunk = form("file", "scan.nii.gz")[0][:-9], b"x" * 65536
        try:
            for part in (head, *[chunk] * 1000):
                client.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        except OSError:
            return  # it hung up
        assert b" 413 " in client.recv(65536).splitlines()[0]


def test_answers_keep_other_pages_out(server: Server) -> None:
    for path, policy in (("/info/", "default-src 'none'"), ("/", "frame-ancestors 'none'"), ("/ohif/", "blob:")):
        status, headers, content = ask(server, "GET", path)
        assert status == 200
        assert policy in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert b"https://fonts" not in content
        assert "access-control-allow-origin" not in headers


def test_this_server_s_own_pages_may_ask(server: Server) -> None:
    headers = {"Origin": server.url, "Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"}
    status, _, content = ask(server, "POST", "/activelearning/random", b"{}", headers)
    assert (status, json.loads(content)["id"]) == (200, "one")


def test_the_first_page_says_what_there_is(server: Server) -> None:
    ask(server, "GET", "/datastore/image?image=../again")
    _, _, content = ask(server, "GET", "/")
    text = content.decode()
    assert f"<code>{server.url}</code>" in text
    assert NAME in text
    assert "anterior, posterior" in text
    assert "expected a name without separators" in text


def test_the_log_has_a_line_a_request(server: Server) -> None:
    assert server.ask_form(f"/infer/{NAME}", {}, image="one")[0] == 200
    assert server.ask_form(f"/infer/{NAME}", {}, image="absent")[0] == 422
    log = server.log.read_text()
    assert f"POST /infer/{NAME} image=one: 200 after " in log
    assert f"POST /infer/{NAME} image=absent: 422 after " in log
    assert "no such image in the studies" in log


def test_uploads_leave_nothing(server: Server, real_scan: Path) -> None:
    server.client.infer(NAME, "", {}, file=str(real_scan))
    status, content = server.ask("POST", f"/infer/{NAME}")
    assert status == 400, content
    body, headers = form("file", "Doe_John.nii.gz", b"no scan")
    status, _, content = ask(server, "POST", f"/infer/{NAME}", body, headers)
    assert status == 422
    assert b"uploaded file: " in content
    assert list((server.app / "received").iterdir()) == []
    assert "Doe" not in server.log.read_text()
    for private in ("received", "sessions"):
        assert (server.app / private).stat().st_mode & 0o777 == 0o700


def test_without_the_token_there_is_nothing(guarded: Server) -> None:
    for method, path in (
        ("GET", "/info/"),
        ("GET", "/"),
        ("GET", "/ohif/"),
        ("POST", "/train/"),
        ("GET", "/auth/token/valid"),
    ):
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Cookie": "tomoseg=x"},
        ):
            assert ask(guarded, method, path, headers=headers)[0] == 401, path
    assert ask(guarded, "GET", "/?token=wrong")[0] == 401
    assert ask(guarded, "GET", "/info/", headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200


def test_a_browser_gets_in_by_the_printed_address(guarded: Server) -> None:
    status, headers, _ = ask(guarded, "GET", f"/?{urlencode({'token': TOKEN})}")
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert {"httponly", "samesite=strict"} <= {part.strip().lower() for part in cookie.split(";")}
    assert TOKEN not in cookie
    assert ask(guarded, "GET", "/", headers={"Cookie": cookie.partition(";")[0]})[0] == 200


def test_the_client_of_3d_slicer_logs_in(guarded: Server) -> None:
    from monailabel.client.client import MONAILabelClientException

    client = guarded.client
    assert client.auth_enabled()
    assert not client.auth_valid_token()
    with pytest.raises(MONAILabelClientException, match="wrong password"):
        client.auth_token("ann", "guess")
    client.update_auth(client.auth_token("ann", TOKEN))
    assert client.auth_valid_token()
    assert client.info()["name"] == "tomoseg"
    forged = client.auth_token("ann", TOKEN)
    forged["access_token"] = forged["access_token"].replace("YW5u", "Ym9i")  # another name, the same signature
    client.update_auth(forged)
    assert not client.auth_valid_token()


def test_every_call_of_the_client_that_stays(server: Server, real_scan: Path, tmp_path: Path) -> None:
    client = server.client
    assert not client.auth_enabled()
    info = client.info()
    assert NAME in info["models"]
    assert client.next_sample("random", {})["id"] == "one"
    path, reported = client.infer(NAME, "one", {})
    assert reported["label_names"]
    named = {"label_info": [{"name": "anterior", "idx": 1}, {"name": "posterior", "idx": 2}]}
    assert client.upload_image(str(real_scan), "added")["image"] == "added"
    assert client.save_label("added", path, params=named)["label"] == "added"
    assert "added" in client.datastore()["objects"]
    assert Path(client.download_label("added", "final")).stat().st_size > 0
    session = client.create_session(str(real_scan))["session_id"]
    assert client.get_session(session)["name"] == session
    client.infer(NAME, "", {}, session_id=session)
    client.remove_session(session)
    client.train_start(NAME, {"max_epochs": 1, "dataset": "CacheDataset"})
    assert client.train_status(False)["status"] in ("SUBMITTED", "RUNNING", "DONE", "ERROR")
    client.train_stop()


def test_a_flood_of_labels_with_forged_names(server: Server, real_scan: Path) -> None:
    from monailabel.client import MONAILabelClient

    server.client.upload_image(str(real_scan), "flooded")
    path, _ = server.client.infer(NAME, "flooded", {})
    forged = {"user": "mallory", "weights": "mallory", "restored": 7, "image": "../one", "created": "mallory"}
    forged["label_info"] = [{"name": "anterior", "idx": 1}, {"name": "posterior", "idx": 2}]
    clients = ["\x1b[2Jbob\n\u202e", "x" * 5000, {"a": ["b"]}, *map(str, range(KEPT))]
    for client in clients:
        answer = MONAILabelClient(server.url, client_id=client).save_label("flooded", path, params=dict(forged))
    assert answer["note"].startswith("image flooded: had labels by another person, which are kept: version 22 by 18, ")
    done = run_inside("label-app", server.app, "--history", "flooded")
    lines = done.stdout.splitlines()
    assert (done.returncode, len(lines)) == (0, KEPT)
    assert lines[-1].startswith("flooded: version 23 by 19, 20")
    assert lines[-1].endswith(f", from {NAME} version 0")
    assert all(len(line) < 300 for line in lines)
    log = server.log.read_text()
    assert not [one for one in ("mallory", "\x1b", "\u202e") if one in done.stdout + log]
    assert r"version 1 by \x1b[2Jbob \u202e" in log
    (folder,) = (one for one in (server.app / "history").iterdir() if len([*one.iterdir()]) == KEPT)
    assert len(folder.name) == 32
    assert sorted(one.name for one in folder.iterdir()) == [f"{number:04}" for number in range(4, 24)]


STARTS = {
    "other computers without a token": (
        ("--host", "0.0.0.0", "--token", ""),
        "lets other computers in without a token",
    ),
    "a token that is guessed": (("--token", "123"), "--token: expected at least 12 letters"),
    "a certificate without its key": (("--tls-cert", "{here}"), "--tls-cert: goes with --tls-key"),
    "no certificate": (("--tls-cert", "{here}x", "--tls-key", "{here}"), "no such file"),
    "an empty folder": ((), "has no scan that can be served"),
    "an app in the studies": (("--app", "{studies}/app"), "lies in the studies"),
    "an upload of no size": (("--max-upload", "much"), "max_upload: expected a size"),
}


@pytest.mark.parametrize("name", STARTS)
def test_a_start_that_is_refused(name: str, tmp_path: Path) -> None:
    require_monailabel()
    arguments, message = STARTS[name]
    (tmp_path / "studies").mkdir()
    (tmp_path / "here").touch()
    given = [one.format(here=tmp_path / "here", studies=tmp_path / "studies") for one in arguments]
    done = run_inside(
        "label-server",
        "--studies",
        tmp_path / "studies",
        "-b",
        NAME,
        "--port",
        free_port(),
        "--app",
        tmp_path / "app",
        *given,
    )
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_archive_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    require_monailabel()
    done = run_inside(
        "label-server", "--studies", f"http://127.0.0.1:{free_port()}", "-b", NAME, "--app", tmp_path / "app"
    )
    assert done.returncode == 2
    assert "no DICOMweb archive answers there" in done.stderr
    assert done.stderr.count("\n") == 1

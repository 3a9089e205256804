"""What an archive may answer: each answer comes from a real HTTP server, which forges it."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from support.dicoms import make_series
from tomoseg import TomosegError
from tomoseg.batch.archive.client import Archive, ArchiveError, TooLargeError

STUDY, SERIES = "1.2.826.1", "1.2.826.1.1"
SECRET = "Doe^Jane"
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Forger:
    """An archive that answers as the test says."""

    url: str
    answer: Answer = (200, {}, b"")
    to_searches: Answer | None = None
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)


@contextmanager
def forging(context: ssl.SSLContext | None = None) -> Iterator[Forger]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append((self.path, dict(self.headers)))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, body = (self.command == "GET" and made.to_searches) or made.answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:  # the client has read enough
                self.close_connection = True

        do_POST = do_GET  # noqa: N815 - the names are those of http.server

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    made = Forger(f"http{'s' if context else ''}://localhost:{server.server_address[1]}/dicom-web")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def forger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Forger]:
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    with forging() as running:
        yield running


def found(**changed: Any) -> dict[str, Any]:
    values = {
        "0020000D": STUDY, "0020000E": SERIES, "00080060": "CT", "0008103E": f"<b>{SECRET}</b>", "00201209": 3
    } | changed  # fmt: skip
    return {tag: {"vr": "LO", "Value": [value]} for tag, value in values.items()}


def as_json(content: Any) -> Answer:
    return 200, {"Content-Type": "application/dicom+json"}, json.dumps(content).encode()


def multipart(*parts: bytes) -> Answer:
    body = b"".join(b"--x\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts) + b"--x--"
    return 200, {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'}, body


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("images")
    series, _ = make_series(folder, (5, 6, 3), StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES)
    return [frame.path.read_bytes() for frame in series.frames]


def test_series_that_cannot_be_asked_for_are_left_out(forger: Forger) -> None:
    wrong: list[Any] = [
        {"0020000E": "../../etc"}, {"0020000E": "1.2/3"}, {"0020000E": ".."}, {"0020000D": "1." * 40 + "1"},
        {"00201209": "many"}, {"00201209": -1}, {"00201209": 10**12}, {"0020000E": ["1.2"]}, {"0020000E": None},
    ]  # fmt: skip
    forger.answer = as_json([*(found(**one) for one in wrong), None, 3, {"0020000E": 7}, {}, found()])
    series = list(Archive(forger.url).search("20260101"))
    assert [(one.study, one.uid, one.images, one.description) for one in series] == [
        (STUDY, SERIES, 3, f"<b>{SECRET}</b>")
    ]
    assert "StudyDate=20260101-" in forger.asked[0][0]
    assert len(forger.asked) == 2  # it knows no offset, and gives the same page again


FORGED: dict[str, tuple[Answer, type[TomosegError], str]] = {
    "a page": ((200, {"Content-Type": "text/html"}, SECRET.encode()), ArchiveError, "failed"),
    "nested": ((200, {}, b"[" * 100_000), ArchiveError, "failed"),
    "an error": ((503, {}, SECRET.encode()), ArchiveError, "503"),
    "refused": ((401, {}, b""), ArchiveError, "401"),
    "huge": ((200, {}, b"[" + b" " * (1 << 27)), TooLargeError, "more than"),
}


@pytest.mark.parametrize("case", FORGED)
def test_an_answer_to_a_search_that_is_none(case: str, forger: Forger) -> None:
    forger.answer, kind, message = FORGED[case]
    with pytest.raises(kind, match=message) as caught:
        list(Archive(forger.url).search())
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_redirect_is_not_followed(forger: Forger, images: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(images[0])
    with forging() as other:
        forger.answer = (302, {"Location": other.url}, b"")
        for ask in (lambda archive: list(archive.search()), lambda archive: archive.store(STUDY, [tmp_path / "a.dcm"])):
            with pytest.raises(ArchiveError, match="redirects"):
                ask(Archive(forger.url))
        assert Archive(forger.url).last_change() is None
        assert other.asked == []


def foreign(images: list[bytes], one: str, other: str) -> bytes:
    assert len(one) == len(other)
    changed = images[0].replace(one.encode(), other.encode())
    assert changed != images[0]
    return changed


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda images: [*images[:2], foreign(images, SERIES, "1.2.826.1.9")], TomosegError, "another series"),
        (lambda images: [foreign(images, STUDY, "1.2.826.9")], TomosegError, "another series"),
        (lambda images: [*images, SECRET.encode()], ArchiveError, "something else"),
        (lambda images: [images[0][:200]], ArchiveError, "something else"),
        (lambda images: [bytes(2000)], ArchiveError, "something else"),
        (lambda images: [bytes(1 << 20)] * 3, TooLargeError, "more than"),
    ],
)
def test_images_that_were_not_asked_for(
    make: Callable[[list[bytes]], list[bytes]],
    kind: type[TomosegError],
    message: str,
    forger: Forger,
    images: list[bytes],
    tmp_path: Path,
) -> None:
    forger.answer = multipart(*make(images))
    with pytest.raises(kind, match=message) as caught:
        Archive(forger.url).fetch(STUDY, SERIES, tmp_path / "in" / "series", 1 << 20, 100)
    assert SECRET not in str(caught.value)
    assert not list((tmp_path / "in").iterdir())


def test_images_are_saved_once_each_up_to_a_number(forger: Forger, images: list[bytes], tmp_path: Path) -> None:
    forger.answer = multipart(*images, *images)
    archive = Archive(forger.url)
    assert archive.fetch(STUDY, SERIES, tmp_path / "in" / "series", 1 << 20, 3) == 3
    assert [path.name for path in sorted((tmp_path / "in" / "series").iterdir())] == [
        "000000.dcm", "000001.dcm", "000002.dcm"
    ]  # fmt: skip
    with pytest.raises(TooLargeError, match="more than 2 images"):
        archive.fetch(STUDY, SERIES, tmp_path / "in" / "again", 1 << 20, 2)
    forger.answer = (200, {"Content-Type": 'multipart/related; boundary="x"'}, b"\r\n--x--")
    assert archive.fetch(STUDY, SERIES, tmp_path / "in" / "none", 1 << 20, 2) == 0


def test_a_result_that_the_archive_refuses(forger: Forger, images: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(images[0])
    failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xA700]}}]}}
    for answer, message in [(as_json(failed), "refuses results .*0xa700"), ((409, {}, b""), "409")]:
        forger.answer = answer
        with pytest.raises(ArchiveError, match=message):
            Archive(forger.url).store(STUDY, [tmp_path / "a.dcm"])
    forger.to_searches = as_json([{"00080018": {"vr": "UI", "Value": ["1.2.3"]}}])
    with pytest.raises(ArchiveError, match="409"):
        Archive(forger.url).store(STUDY, [tmp_path / "a.dcm"])
    uid = str(dcmread(tmp_path / "a.dcm").SOPInstanceUID)
    forger.to_searches = as_json([{"00080018": {"vr": "UI", "Value": [uid]}}])  # it refuses because it holds it
    Archive(forger.url).store(STUDY, [tmp_path / "a.dcm"])
    forger.answer = as_json({})
    Archive(forger.url).store(STUDY, [tmp_path / "a.dcm"])
    assert forger.asked[-1][0] == f"/dicom-web/studies/{STUDY}"


def test_credentials_come_from_a_file(forger: Forger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine localhost login watcher password geheim\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    forger.answer = as_json([])
    assert list(Archive(forger.url).search()) == []
    assert forger.asked[0][1]["Authorization"].startswith("Basic ")
    with pytest.raises(TomosegError, match=r"holds a user or a password\. Put them into ~/\.netrc") as caught:
        Archive(forger.url.replace("//", "//watcher:geheim@"))
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://", "https://:80/x", "http://[::1", "http://archive:port/x"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(TomosegError, match="expected an address such as"):
        Archive(url)


def test_only_a_known_certificate_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    certificates = [make_certificate(tmp_path, name) for name in ("archive", "other")]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates[0])
    with forging(context) as forger:
        forger.answer = as_json([found()])
        assert len(list(Archive(forger.url, str(certificates[0][0])).search())) == 1
        for ca_file in (None, str(certificates[1][0])):
            with pytest.raises(ArchiveError, match="CERTIFICATE_VERIFY_FAILED"):
                list(Archive(forger.url, ca_file).search())
    with pytest.raises(TomosegError, match=r"none\.pem: cannot be read: .*\. Check --ca-file"):
        Archive("https://localhost/dicom-web", str(tmp_path / "none.pem"))


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Return a certificate that signs itself, for localhost, and its key."""
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-out", str(paths[0]), "-keyout", str(paths[1])]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl. Install it with: apt-get install openssl")
    return paths


def test_orthanc_says_whether_anything_changed(forger: Forger) -> None:
    archive = Archive(forger.url)
    forger.answer = as_json({"Last": 7})
    assert archive.last_change() == 7
    assert forger.asked[0][0].startswith("/changes?last")
    contents: list[Any] = [{"Last": "7"}, [], {"Last": True}, 3]
    for content in contents:
        forger.answer = as_json(content)
        assert archive.last_change() is None
    forger.answer = (404, {}, b"{}")
    assert archive.last_change() is None
    asked = len(forger.asked)
    assert archive.last_change() is None
    assert len(forger.asked) == asked

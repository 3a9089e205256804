"""Bundles are added whole or not at all, from folders, ZIPs and MONAI's model zoo, and nothing of them runs."""

from __future__ import annotations

import hashlib
import json
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from support.bundles import Json
from support.command_line import complaint, run_inside
from support.trust import nothing_trusted
from tomoseg import find_bundle, registered_names
from tomoseg.bundle.registry import store_folder
from tomoseg.bundle.trust import is_trusted

TOUCH = "__import__('pathlib').Path('marker').touch()"
WEIGHTS = b"weights"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with nothing_trusted(tmp_path / "data"):
        yield


def write(root: Path) -> Path:
    for folder in ("configs", "scripts", "models", ".git"):
        (root / folder).mkdir(parents=True)
    metadata = {"version": "1.2.0", "copyright": "Apache 2.0"}
    for name, content in {"metadata": metadata, "inference": {"network_def": f"${TOUCH}"}}.items():
        (root / "configs" / f"{name}.json").write_text(json.dumps(content))
    (root / "scripts" / "__init__.py").write_text(TOUCH)
    (root / "models" / "model.pt").write_bytes(WEIGHTS)
    return root


def pack(root: Path, path: Path, above: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for one in sorted(root.rglob("*")):
            archive.write(one, f"{above}{one.relative_to(root)}")
    return path


def listed() -> dict[str, Json]:
    return {one["name"]: one for one in json.loads(run_inside("bundles", "--json").stdout)["bundles"]}


SOURCES: dict[str, Callable[[Path], object]] = {
    "./liver": lambda root: root,
    "liver.zip": lambda root: pack(root, Path("liver.zip")),
    "deep.zip": lambda root: pack(root, Path("deep.zip"), "a/liver/"),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", ["liver", "their_liver"])
def test_a_bundle_is_added_listed_and_removed(source: str, name: str) -> None:
    SOURCES[source](write(Path("liver")))
    chosen = [] if name in source else ["--name", name]
    done = run_inside("bundles", "--add", source, *chosen)
    assert (done.returncode, done.stderr) == (0, "")
    bundle = find_bundle(name)
    assert (bundle.version, is_trusted(bundle)) == ("1.2.0", False)
    entry = listed()[name]
    assert (entry["licence"], entry["trusted"], entry["size_bytes"] > 100) == ("Apache 2.0", False, True)
    assert f"{name} " in run_inside("bundles").stdout
    record = json.loads((store_folder() / f"{name}.json").read_text())
    assert record["files"]["models/model.pt"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert not (bundle.root / ".git").exists()
    again = run_inside("bundles", "--add", source, *chosen)
    assert f"{name} is there already" in complaint(again)
    assert run_inside("segment", "x.nii", "-o", "y.nii", "-b", name).stderr.endswith("trust=True).\n")
    assert run_inside("bundles", "--remove", name).returncode == 0
    assert name not in registered_names()
    assert list(store_folder().iterdir()) == []
    assert not Path("marker").exists()


def zipped(name: str, text: str = "", mode: int = 0) -> Callable[[Path], object]:
    def write_zip(root: Path) -> None:
        pack(root, Path("source"), "liver/")
        with zipfile.ZipFile("source", "a") as archive:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, text, zipfile.ZIP_DEFLATED)

    return write_zip


def changed(change: Callable[[Path], object]) -> Callable[[Path], object]:
    def write_folder(root: Path) -> None:
        change(root)
        root.rename("source")

    return write_folder


REJECTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "parent": (zipped("../outside"), "a link or a file outside of itself, '../outside'"),
    "parent inside": (zipped("liver/x/../../../outside"), "a link or a file outside of itself"),
    "absolute": (zipped("/tmp/outside"), "a link or a file outside of itself"),
    "of Windows": (zipped("..\\outside"), "a link or a file outside of itself"),
    "drive": (zipped("C:/outside"), "a link or a file outside of itself"),
    "link": (zipped("liver/link", "/etc", stat.S_IFLNK | 0o777), "a link or a file outside of itself"),
    "twice": (zipped("liver/configs/metadata.json"), "cannot be unpacked"),
    "bomb": (zipped("liver/big", "0" * 150_000_000), "inflates to more than 50 times"),
    "two bundles": (zipped("other/configs/"), "expected one folder 'configs'"),
    "no ZIP": (lambda root: Path("source").write_text("x"), "cannot be unpacked"),
    "folder link": (changed(lambda root: (root / "more").symlink_to("/")), "a link to a folder"),
    "no bundle": (changed(lambda root: (root / "configs").rename(root / "x")), "expected a folder 'configs'"),
    "damaged": (
        changed(lambda root: (root / "configs" / "metadata.json").write_text("[" * 99_999)),
        "nested too deeply",
    ),
}


@pytest.mark.parametrize("name", REJECTED)
def test_what_is_rejected_leaves_nothing(name: str, tmp_path: Path) -> None:
    prepare, error = REJECTED[name]
    prepare(write(Path("liver")))
    done = run_inside("bundles", "--add", "source", "--name", "liver")
    assert done.returncode == 2
    assert error in complaint(done)
    assert not store_folder().exists() or list(store_folder().iterdir()) == []
    assert not [path for path in (Path("outside"), tmp_path.parent / "outside", Path("/tmp/outside")) if path.exists()]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--add", "nowhere"], "no such folder or ZIP"),
        (["--add", "zoo:../x"], "no such folder or ZIP"),
        (["--add", "liver", "--name", "a/b"], "expected letters"),
        (["--add", "liver", "--name", ".."], "expected letters"),
        (["--add", "liver", "--name", "hippocampus_mr_segmentation"], "is there already"),
        (["--remove", "hippocampus_mr_segmentation"], "no bundle that was added"),
        (["--remove", "../data"], "no bundle that was added"),
        (["--name", "x"], "expected --add SOURCE"),
        (["--add", "liver", "--remove", "x"], "expected --add SOURCE"),
    ],
)
def test_wrong_usage_is_one_line(words: list[str], error: str) -> None:
    write(Path("liver"))
    done = run_inside("bundles", *words)
    assert done.returncode == 2
    assert error in complaint(done)


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of this machine in place of the zoo's; MONAI's downloader is the real one."""
    scripts = pytest.importorskip("monai.bundle.scripts")
    (tmp_path / "web").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("tomoseg.convert.zoo.find_spec", lambda _: None)
        monkeypatch.setattr(scripts, "_get_git_release_url", lambda *_, **given: f"{url}/{given['filename']}")
        monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
        yield url
        server.shutdown()


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("into", ["models/model.pt", "../../../model.pt"])
def test_a_bundle_of_the_zoo_comes_with_its_large_files(web: str, hashed: bool, into: str) -> None:
    root = write(Path("liver"))
    (root / "models" / "model.pt").rename("web/model.pt")
    digest = hashlib.sha256(WEIGHTS if hashed else b"others").hexdigest()
    entry = {"path": into, "url": f"{web}/model.pt", "hash_val": digest, "hash_type": "sha256"}
    (root / "large_files.yml").write_text(json.dumps({"large_files": [entry]}))
    pack(root, Path("web/liver_v1.2.0.zip"), "liver/")
    done = run_inside("bundles", "--add", "zoo:liver@1.2.0")
    assert not [path for path in store_folder().parent.rglob("model.pt") if "models" not in path.parts]
    if hashed and into.startswith("models"):
        assert (find_bundle("liver").root / "models" / "model.pt").read_bytes() == WEIGHTS
        assert json.loads((store_folder() / "liver.json").read_text())["source"] == "zoo:liver@1.2.0"
    else:
        assert done.returncode == 2
        reason = "cannot be fetched" if into.startswith("models") else "large_files.yml: a path leads out of the bundle"
        assert f"zoo:liver@1.2.0: {reason}" in done.stderr
        assert list(store_folder().iterdir()) == []
    assert not Path("marker").exists()


def test_what_the_zoo_does_not_have_leaves_nothing(web: str) -> None:
    done = run_inside("bundles", "--add", "zoo:liver@9.9.9")
    assert done.returncode == 2
    assert "zoo:liver@9.9.9: cannot be fetched" in done.stderr
    assert list(store_folder().iterdir()) == []

"""What annotators have submitted: each version is kept, and comes back by a command."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from support.command_line import run_inside
from support.label_server import Server, require_monailabel, running_server
from support.waiting import wait_until
from tomoseg import read_volume
from tomoseg.core.errors import UsageError
from tomoseg.label_app.folder import LabelApp
from tomoseg.label_app.history import KEPT, History, annotator

NAME = "hippocampus_mr_segmentation"
TOKEN = "a token of the tests"
NAMES = [{"name": "anterior", "idx": 1}, {"name": "posterior", "idx": 2}]


def submit(history: History, image: str, **facts: Any) -> None:
    with history.adding(image, facts) as folder:
        (folder / "label.nii.gz").write_text(str(facts))


def test_the_last_versions_of_an_image_are_kept(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    for number in range(KEPT + 5):
        submit(history, "one", user=f"user {number}")
    submit(history, "two")
    found = history.of("one")
    assert [one.number for one in found] == list(range(6, KEPT + 6))
    assert found[-1].user == f"user {KEPT + 4}"
    assert str(history.of("two")[0]).startswith("version 1 by someone unknown, ")
    assert history.find("one", 7).label.is_file()
    assert history.folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(UsageError, match="image 'one': has no submission 3; there are 6, 7"):
        history.find("one", 3)


def test_a_submission_that_fails_leaves_nothing(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    with pytest.raises(KeyError), history.adding("one", {}) as folder:
        (folder / "label.nii.gz").touch()
        raise KeyError("the archive")
    assert history.of("one") == []
    assert list(history.folder.rglob("label*")) == []


def test_many_at_once_take_a_number_each(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: submit(history, "one", user=f"user {number}"), range(16)))
    assert [one.number for one in history.of("one")] == list(range(1, 17))
    assert {one.user for one in history.of("one")} == {f"user {number}" for number in range(16)}


@pytest.mark.parametrize("image", ["..", "../../one", "/etc/passwd", "a\0b", "x" * 5000, "\ud800", "", "one\n"])
def test_an_image_s_id_is_no_path(tmp_path: Path, image: str) -> None:
    history = History(tmp_path / "app" / "history")
    submit(history, image)
    assert [one.number for one in history.of(image)] == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["app"]
    assert sorted(path.name for path in (tmp_path / "app").iterdir()) == [".history.lock", "history"]


FORGED = {
    "no facts": "",
    "facts that are a list": "[1]",
    "facts of other kinds": '{"user": ["a"], "created": {"b": 1}, "weights": 7}',
    "facts that are too deep": "[" * 100_000,
    "a terminal's escapes": json.dumps({"user": "\x1b[2Jann\nbob"}),
    "another version of tomoseg": '{"schema_version": 99}',
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_history_is_shown_in_lines(tmp_path: Path, name: str) -> None:
    app = tmp_path / "app"
    history = History(app / "history")
    submit(history, "one", user="ann")
    folder = history.of("one")[0].label.parent
    (folder / "submission.json").write_text(FORGED[name])
    os.mkfifo(folder.parent / "0002")
    (folder.parent / "0003").mkdir()
    os.mkfifo(folder.parent / "0003" / "label.nii.gz")
    (folder.parent / ("9" * 200)).mkdir()
    done = run_inside("label-app", app, "--history", "one")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("one: version 1 by ")
    assert done.stdout.count("\n") == 1
    assert "\x1b" not in done.stdout


def test_a_huge_history_is_cut_by_the_next_submission(tmp_path: Path) -> None:
    history = History(tmp_path / "app" / "history")
    submit(history, "one", user="ann")
    place = history.of("one")[0].label.parents[1]
    for number in range(2, 3000):
        (place / f"{number:04}").mkdir()
    (place / f"{2999:04}" / "label.nii.gz").touch()
    assert len(run_inside("label-app", tmp_path / "app", "--history", "one").stdout.splitlines()) == 2
    submit(history, "one", user="bob")
    assert [path.name for path in sorted(place.iterdir())] == [f"{number:04}" for number in range(2981, 3001)]
    assert history.of("one")[-1].user == "bob"


@pytest.mark.parametrize(
    ("login", "client", "name"),
    [
        ("ann", "user-xyz", "ann"),
        ("", "bob", "bob"),
        ("", "user-xyz", ""),
        ("", None, ""),
        ("", ["x"], ""),
        ("", "a\x1b[2J" + "b" * 200, "a\\x1b[2J" + "b" * 91 + "…"),
    ],
)
def test_who_it_was(login: str, client: object, name: str) -> None:
    assert annotator(login, client) == name


@pytest.fixture(scope="module")
def server(real_scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two images; one of them was labelled before, by another program."""
    require_monailabel()
    folder = tmp_path_factory.mktemp("history")
    studies = folder / "studies"
    (studies / "labels" / "final").mkdir(parents=True)
    for name in ("one", "old"):
        shutil.copy(real_scan, studies / f"{name}.nii.gz")
    shutil.copy(drawing(folder, studies / "old.nii.gz", 0), studies / "labels" / "final" / "old.nii.gz")
    with running_server(folder, str(studies), "-b", NAME, token=TOKEN) as running:
        yield running


def drawing(folder: Path, scan: Path, shift: int) -> Path:
    image = nib.load(scan)
    labels = np.zeros(image.shape, np.uint8)
    labels[5 + shift : 9 + shift, 5:9, 5:9], labels[5 + shift : 9 + shift, 5:9, 12:16] = 1, 2
    path = folder / f"drawn_{shift}.nii.gz"
    nib.save(nib.Nifti1Image(labels, image.affine), path)
    return path


def save(server: Server, user: str, image: str, shift: int) -> dict[str, Any]:
    client = server.client
    client.update_auth(client.auth_token(user, TOKEN))
    path = drawing(server.app.parent, Path(server.studies) / f"{image}.nii.gz", shift)
    params = {"label_info": NAMES, "user": "eve", "restored": 9, "weights": "made up"}  # the server knows these itself
    answer: dict[str, Any] = client.save_label(image, str(path), params=params)
    return answer


def final(server: Server, image: str) -> Any:
    return read_volume(Path(server.studies) / "labels" / "final" / f"{image}.nii.gz").array


@pytest.mark.slow
def test_the_second_annotator_learns_of_the_first_and_nothing_is_lost(server: Server) -> None:
    assert "note" not in save(server, "ann", "one", 0)
    client = server.client
    client.update_auth(client.auth_token("ann", TOKEN))
    client.infer(NAME, "one", {})
    assert "note" not in save(server, "ann", "one", 1)
    note = save(server, "bob", "one", 2)["note"]
    assert "image one: had labels by another person, which are kept: version 2 by ann, " in note
    assert note in server.log.read_text()
    listed = run_inside("label-app", server.app, "--history", "one").stdout.splitlines()
    assert [line[: line.index(", 20")] for line in listed] == [
        "one: version 1 by ann", "one: version 2 by ann", "one: version 3 by bob"
    ]  # fmt: skip
    assert [line.endswith(f", from {NAME} version 0") for line in listed] == [False, True, True]

    drawn = final(server, "one")
    done = run_inside("label-app", server.app, "--history", "one", "--restore", 1, cwd=server.app.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("one: version 4 by ann, ")
    assert done.stdout.endswith(", restored from version 1\n")
    np.testing.assert_array_equal(np.roll(final(server, "one"), 2, axis=0), drawn)
    client.update_auth(client.auth_token("ann", TOKEN))
    wait_until(
        lambda: client.datastore()["objects"]["one"]["labels"]["final"]["info"].get("restored") == 1,
        "the running server to see it",
    )
    assert client.datastore()["objects"]["one"]["labels"]["final"]["info"]["label_info"] == NAMES


@pytest.mark.slow
def test_labels_that_came_another_way_are_kept_too(server: Server) -> None:
    before = final(server, "old")
    assert "version 1 by someone unknown" in save(server, "bob", "old", 3)["note"]
    assert run_inside("label-app", server.app, "--history", "old", "--restore", 1).returncode == 0
    np.testing.assert_array_equal(final(server, "old"), before)


@pytest.mark.slow
def test_a_restored_label_needs_its_image(server: Server, tmp_path: Path) -> None:
    save(server, "ann", "one", 1)
    run_inside("label-app", server.app, "-b", NAME)  # an app that is made again keeps its history
    arguments = ("label-app", server.app, "--history", "one", "--restore", 1)
    LabelApp(server.app).serve(str(tmp_path / "moved"))
    gone = run_inside(*arguments)
    (tmp_path / "moved").mkdir()
    shutil.copy(Path(server.studies) / "old.nii.gz", tmp_path / "moved")
    absent = run_inside(*arguments)
    LabelApp(server.app).serve(server.studies)
    for done, message in ((gone, "has no scan that can be served"), (absent, "no such image in the studies")):
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert message in done.stderr
    done = run_inside(*arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--history", "one", "--restore", 99), "image 'one': has no submission 99"),
        (("--history", "one", "--restore", -1), "image 'one': has no submission -1"),
        (("--history", "../one"), "image '../one': nothing was submitted"),
        (("--history", "../one", "--restore", 1), "image '../one': has no submission 1; nothing was submitted"),
        (("--restore", 1), "--restore: needs an image. Name it with --history"),
    ],
)
def test_what_is_not_there_is_one_line(server: Server, arguments: tuple[object, ...], message: str) -> None:
    done = run_inside("label-app", server.app, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1

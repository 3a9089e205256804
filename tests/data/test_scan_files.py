"""Files below a folder: links are followed once, and notes name the skipped ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.dicoms import oriented_grid, write_series
from support.evaluations import write
from support.trainings import tomoseg
from tomoseg.batch.cases import plan_cases
from tomoseg.batch.watch_folder import WatchFolder
from tomoseg.core.notes import collect_notes
from tomoseg.data.datasets import read_dataset
from tomoseg.data.scan_files import visible_files
from tomoseg.evaluation.run import evaluate
from tomoseg.training.unlabelled import check_unlabelled


def scan(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(path, np.random.default_rng(len(path.parts)).random((8, 8, 8)).astype(np.float32))


def in_a_circle(root: Path) -> None:
    (root / "a" / "up").symlink_to(root)


def to_a_folder_above(root: Path) -> None:
    (root / "up").symlink_to(root.parent)


def to_itself(root: Path) -> None:
    (root / "self").symlink_to(root / "self")


def to_a_folder_beside(root: Path) -> None:
    (root / "again").symlink_to(root / "a", target_is_directory=True)


def to_each_other(root: Path) -> None:
    outside = root.parent / "outside"
    scan(outside / "out.nii.gz")
    (root / "out").symlink_to(outside)
    (outside / "back").symlink_to(root)


def twice_outside(root: Path) -> None:
    scan(root.parent / "outside" / "deep" / "out.nii.gz")
    (root / "x").symlink_to(root.parent / "outside" / "deep")
    (root / "y").symlink_to(root.parent / "outside")


def to_a_hidden_folder(root: Path) -> None:
    scan(root / ".store" / "s.nii.gz")
    (root / "shown").symlink_to(root / ".store")


def files(root: Path) -> None:
    scan(root.parent / "outside" / "out.nii.gz")
    (root / "one.nii.gz").symlink_to(root.parent / "outside" / "out.nii.gz")
    (root / "two.nii.gz").symlink_to(root.parent / "outside" / "out.nii.gz")
    (root / "gone").symlink_to(root / "nothing")


@pytest.mark.parametrize(
    ("link", "found", "told"),
    [
        (in_a_circle, [], ["a/up: skipped: a link to ROOT, which holds the link itself"]),
        (to_a_folder_above, [], ["up: skipped: a link to ABOVE, which holds the link itself"]),
        (to_itself, ["self"], ["self: skipped: a link that leads nowhere"]),
        (to_a_folder_beside, [], ["again: skipped: a link to ROOT/a, which is searched already"]),
        (
            to_each_other,
            ["out/out.nii.gz"],
            [
                "out: a link that leads out of ROOT, to ABOVE/outside",
                "out/back: skipped: a link to ROOT, which holds the link itself",
            ],
        ),
        (
            twice_outside,
            ["x/out.nii.gz"],
            [
                "x: a link that leads out of ROOT, to ABOVE/outside/deep",
                "y: a link that leads out of ROOT, to ABOVE/outside",
            ],
        ),
        (to_a_hidden_folder, ["shown/s.nii.gz"], []),
        (
            files,
            ["gone", "one.nii.gz", "two.nii.gz"],
            [
                "gone: skipped: a link that leads nowhere",
                "one.nii.gz: a link that leads out of ROOT, to ABOVE/outside/out.nii.gz, and 1 more",
            ],
        ),
    ],
)
def test_links_are_followed_once(
    link: Callable[[Path], None], found: list[str], told: list[str], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    scan(root / "a" / "a.nii.gz")
    link(root)
    with collect_notes() as notes:
        seen = [str(path.relative_to(root)) for path in visible_files(root)]
    assert seen == sorted(["a/a.nii.gz", *found])
    for name, where in (("ROOT", root), ("ABOVE", tmp_path)):
        told = [line.replace(name, str(where)) for line in told]
    assert sorted(notes) == sorted(f"{root}/{line}" for line in told)


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder in which a scan and a series come by links only."""
    scan(tmp_path / "store" / "p1" / "x.nii.gz")
    grid = oriented_grid((34, 33, 6), "axial")
    write_series(tmp_path / "store" / "p2", np.ones(grid.shape, np.int16), grid)
    (tmp_path / "in").mkdir()
    for name in ("p1", "p2"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "store" / name)
    return tmp_path / "in"


def test_every_command_follows_links(linked: Path, tmp_path: Path) -> None:
    with collect_notes() as notes:
        cases = plan_cases([linked], tmp_path / "out")
    assert [case.input for case in cases] == [linked / "p1" / "x.nii.gz", linked / "p2"]
    assert [case.output.parent for case in cases] == [tmp_path / "out" / "p1", tmp_path / "out"]
    assert len(notes) == 2
    assert {found.path for found in WatchFolder(linked, tmp_path / "out", 0).poll(0)} == {case.input for case in cases}
    done = tomoseg("check", linked, "--json", folder=tmp_path)
    content = json.loads(done.stdout)
    assert [one["path"] for one in content["scans"]] == [str(case.input) for case in cases]
    assert len(content["notes"]) == 2
    assert "leads out of" in tomoseg("check", linked, folder=tmp_path).stdout


def test_label_maps_and_unlabelled_scans_come_by_links(tmp_path: Path) -> None:
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[2:5] = 1
    for side in ("predictions", "references"):
        (tmp_path / "store" / side).mkdir(parents=True)
        (tmp_path / side).mkdir()
        write(tmp_path / "store" / side / "x.nii.gz", mask)
        (tmp_path / side / "p").symlink_to(tmp_path / "store" / side)
    scored = evaluate(tmp_path / "predictions", tmp_path / "references")
    assert [case.labels[0].overlap.dice for case in scored.done] == [1]
    assert len(scored.notes) == 2
    dataset = tmp_path / "data"
    for part in ("imagesTr", "labelsTr"):
        scan(dataset / part / "c.nii.gz")
    (tmp_path / "unlabelled").mkdir()
    (tmp_path / "unlabelled" / "p").symlink_to(scan(tmp_path / "store" / "more" / "deep" / "u.nii.gz").parent)
    assert [path.name for path in check_unlabelled(tmp_path / "unlabelled", read_dataset(dataset)).scans] == [
        "u.nii.gz"
    ]

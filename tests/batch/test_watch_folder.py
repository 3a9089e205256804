"""A folder that scans arrive in: taken when they are there in full, once in each of their states."""

from __future__ import annotations

import os
import shutil
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.dicoms import write_series
from support.tiers import examples
from tomoseg import Grid
from tomoseg.batch.watch_folder import WatchFolder
from tomoseg.data.discovery import Scan

GRID = Grid((6, 7, 4), np.eye(4))
ticks = count(1)


def change(path: Path, content: bytes) -> None:
    """Write a file with a time of change of its own, as if a while had passed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(next(ticks) * 10**9,) * 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def inbox(folder: Path) -> WatchFolder:
    return WatchFolder(folder, folder / "out", stable_for_s=10)


def test_a_file_is_taken_when_it_stops_growing(inbox: WatchFolder, folder: Path) -> None:
    for second in range(0, 30, 5):
        change(folder / "a.nii.gz", bytes(second))
        assert inbox.poll(second) == []
    assert inbox.poll(30) == []
    assert inbox.poll(35) == [Scan(folder / "a.nii.gz")]
    assert inbox.poll(100) == []


def test_a_file_that_changes_later_is_taken_again(inbox: WatchFolder, folder: Path) -> None:
    change(folder / "a.nii.gz", b"one")
    assert [inbox.poll(second) for second in (0, 10)] == [[], [Scan(folder / "a.nii.gz")]]
    change(folder / "a.nii.gz", b"two")  # of the same size
    assert [inbox.poll(second) for second in (20, 29, 30, 99)] == [[], [], [Scan(folder / "a.nii.gz")], []]
    (folder / "a.nii.gz").unlink()
    assert inbox.poll(120) == []


def test_one_that_grows_does_not_hold_up_others(inbox: WatchFolder, folder: Path) -> None:
    change(folder / "a.nii.gz", b"a")
    change(folder / "b" / "c.mha", b"b")
    inbox.poll(0)
    change(folder / "b" / "d.mha", b"d")
    assert inbox.poll(10) == [Scan(folder / "a.nii.gz")]
    assert inbox.poll(20) == [Scan(folder / "b" / "c.mha"), Scan(folder / "b" / "d.mha")]
    change(folder / "b" / "e.mha", b"e")
    assert [inbox.poll(second) for second in (30, 40)] == [[], [Scan(folder / "b" / "e.mha")]]


def test_a_series_is_taken_when_its_last_slice_is_there(inbox: WatchFolder, folder: Path, tmp_path: Path) -> None:
    series = tmp_path / "series"
    write_series(series, np.zeros(GRID.shape, "int16"), GRID, uid="1.2.3")
    (folder / "study").mkdir()
    for second, file in enumerate(sorted(series.iterdir())):
        shutil.copy(file, folder / "study")
        assert inbox.poll(second * 9) == []
    assert inbox.poll(36) == []
    assert inbox.poll(37) == [Scan(folder / "study", "1.2.3")]
    assert inbox.poll(99) == []


def test_loose_slices_are_one_series(inbox: WatchFolder, folder: Path) -> None:
    write_series(folder, np.zeros(GRID.shape, "int16"), GRID, uid="1.2.3")
    change(folder / "study" / "a.nii", b"a")
    change(folder / "notes.txt", b"none")
    inbox.poll(0)
    assert inbox.poll(10) == [Scan(folder, "1.2.3"), Scan(folder / "study" / "a.nii")]


def test_a_header_waits_for_its_voxels(inbox: WatchFolder, folder: Path) -> None:
    change(folder / "a.mhd", b"ObjectType = Image")
    inbox.poll(0)
    change(folder / "a.raw", bytes(10))
    assert inbox.poll(9) == []
    change(folder / "a.raw", bytes(20))
    assert inbox.poll(18) == []
    assert inbox.poll(28) == [Scan(folder / "a.mhd")]


def test_results_and_hidden_files_are_no_arrivals(inbox: WatchFolder, folder: Path) -> None:
    for name in ("out/a_seg.nii.gz", ".hidden.nii.gz", "b/.part.nii", "b.seg.nrrd"):
        change(folder / name, b"x")
    assert [inbox.poll(second) for second in (0, 10, 20)] == [[], [], []]


def test_a_folder_that_is_gone_for_a_while_brings_its_scans_once(inbox: WatchFolder, folder: Path) -> None:
    change(folder / "a.nii", b"a")
    inbox.poll(0)
    assert inbox.poll(10)
    away = folder.with_name("away")
    folder.rename(away)  # a drive that was not mounted
    assert inbox.poll(20) == []
    away.rename(folder)
    assert [inbox.poll(second) for second in (30, 40, 50)] == [[], [], []]


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(st.tuples(st.integers(0, 12), st.sampled_from("abc")), max_size=15))
def test_every_state_that_lasts_is_taken_once(
    events: list[tuple[int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A file is taken at the first look that finds it unchanged for ten seconds, at any order of changes."""
    folder = tmp_path_factory.mktemp("in")
    inbox, second = WatchFolder(folder, folder / "out", stable_for_s=10), 0
    changed: dict[str, int] = {}
    for pause, name in [*events, (11, "a")]:
        for _ in range(pause):
            second += 1
            expected = [Scan(folder / f"{one}.nii") for one in sorted(changed) if second - changed[one] == 11]
            assert inbox.poll(second) == expected
        change(folder / f"{name}.nii", b"x")
        changed[name] = second

"""What TensorBoard shows is the table, and what a run that goes on repeats stands there once."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from tomoseg.training.history import Board

WITHOUT = find_spec("tensorboard") is None


@pytest.mark.skipif(WITHOUT and not os.environ.get("CI"), reason="tensorboard is not installed; the extra train has it")
def test_rows_are_read_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = Board(tmp_path, 0)
    for epoch in (1, 2, 3):
        first.add({"epoch": epoch, "loss": 1.0 / epoch})
    first.close()
    (file,) = tmp_path.iterdir()
    file.rename(tmp_path / "events.out.tfevents.0000000001.earlier")  # files of one second are read in no sure order
    second = Board(tmp_path, 2)  # killed after the second epoch was saved
    second.add({"epoch": 3, "loss": 0.5})
    second.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, round(event.value, 4)) for event in events.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, 0.5)]


@pytest.mark.skipif(not WITHOUT, reason="tensorboard is installed")
def test_without_it_nothing_is_written(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", 0)
    board.add({"epoch": 1, "loss": 1.0})
    board.close()
    assert not (tmp_path / "board").exists()

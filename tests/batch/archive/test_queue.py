"""The queue of a watched archive, against a clock that the test sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tomoseg import TomosegError
from tomoseg.batch.archive.queue import FETCHED, FILE, SEGMENTED, STORED, Queue, locked, open_state
from tomoseg.batch.archive.rules import FoundSeries, Rule
from tomoseg.data.segments import Predecessor

RULE = Rule("organs", "CT", output_types=("dicom-sr", "rtstruct"))
SERIES = FoundSeries("1.2", "1.2.3", 10, "CT")
RESULT = Predecessor("1.1", "1.2.3.4", "1.2.3")
SETTLE_S, DAY_S = 60.0, 86400.0


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path)


def grow(queue: Queue, images: int, now: float, rule: Rule | None = RULE) -> None:
    queue.observe([(replace(SERIES, images=images), rule)], now)


def due(queue: Queue, now: float) -> str | None:
    entry = queue.next_due(SETTLE_S, now)
    return None if entry is None else f"{entry.step} {entry.images}"


def test_a_series_is_complete_when_its_number_of_images_stays(queue: Queue) -> None:
    for images, now in [(10, 1000), (10, 1030), (12, 1059), (12, 1090)]:
        grow(queue, images, now)
        assert due(queue, now) is None
    assert due(queue, 1118.9) is None
    assert due(queue, 1119) == "arriving 12"
    assert due(queue, 500) == "arriving 12"  # the clock was set back


def test_each_step_is_kept_by_another_process(queue: Queue, tmp_path: Path) -> None:
    grow(queue, 10, 0)
    for step in (FETCHED, SEGMENTED):
        queue.advance(SERIES.uid, step)
        assert due(Queue(tmp_path), 100) == f"{step} 10"
        grow(Queue(tmp_path), 10, 100)  # the same image again
        assert due(queue, 100) == f"{step} 10"
    queue.advance(SERIES.uid, STORED, (RESULT,))
    assert due(Queue(tmp_path), 100) is None
    assert Queue(tmp_path).counts() == {"stored": 1}


@pytest.mark.parametrize("step", ["arriving", FETCHED, SEGMENTED, STORED])
def test_a_late_image_starts_the_series_again(queue: Queue, step: str) -> None:
    grow(queue, 10, 0)
    if step != "arriving":
        queue.advance(SERIES.uid, step, (RESULT,) if step == STORED else None)
    grow(queue, 11, 1000)
    assert due(queue, 1059) is None
    entry = queue.next_due(SETTLE_S, 1060)
    assert entry is not None
    assert (entry.images, entry.output_types) == (11, ("dicom-sr", "rtstruct"))
    assert (entry.earlier, entry.results) == ((1, (RESULT,)) if step == STORED else (0, ()))


def test_a_step_is_tried_again_with_growing_waits_for_a_day(queue: Queue) -> None:
    grow(queue, 10, 0)
    now, waits = 100.0, list[float]()
    while (entry := queue.next_due(SETTLE_S, now)) is not None:
        assert len(waits) < 100
        begun = now
        if queue.fail(entry, "the archive is down", now):
            break
        assert queue.counts() == {"waiting": 1}
        while queue.next_due(SETTLE_S, now) is None:
            now += 10
        waits.append(now - begun)
    assert waits[:8] == [30, 60, 120, 240, 480, 960, 1920, 3600]
    assert sum(waits) == pytest.approx(DAY_S, abs=3600)
    (failed,) = queue.troubled(10)
    assert (failed.failed, failed.reason) == (True, "the archive is down")
    grow(queue, 10, now)
    assert due(queue, now + 10 * DAY_S) is None
    assert queue.retry() == 1
    assert due(queue, now) == "arriving 10"


def test_a_scan_that_cannot_be_segmented_fails_at_once(queue: Queue) -> None:
    grow(queue, 10, 0)
    queue.advance(SERIES.uid, FETCHED)
    entry = queue.next_due(SETTLE_S, 100)
    assert entry is not None
    assert queue.fail(entry, "a single image", 100, for_good=True)
    assert (due(queue, 1e9), queue.counts()) == (None, {"failed": 1})
    grow(queue, 11, 2e9)  # it grew since
    assert due(queue, 2e9 + 60) == "arriving 11"


def test_what_no_rule_fits_is_counted(queue: Queue) -> None:
    grow(queue, 10, 0, rule=None)
    assert (due(queue, 1000), queue.counts()) == (None, {"ignored": 1})
    grow(queue, 40, 1000)  # now one does
    assert due(queue, 1060) == "arriving 40"


def test_two_processes_cannot_share_a_state(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(TomosegError, match="another `tomoseg watch` uses it"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_what_is_no_state_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TomosegError, match="holds no state of `tomoseg watch`"):
        open_state(tmp_path)
    (tmp_path / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(TomosegError, match=r"state\.sqlite: cannot be used: .*\. Choose another folder"):
        open_state(tmp_path)

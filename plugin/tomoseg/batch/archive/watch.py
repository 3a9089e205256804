"""Segment the series of a DICOMweb archive as they arrive, and store the results there: `tomoseg watch http://...`."""

import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydicom.config import disable_value_validation

from tomoseg.batch.archive.client import Archive, ArchiveError
from tomoseg.batch.archive.options import ArchiveOptions
from tomoseg.batch.archive.queue import FETCHED, SEGMENTED, STORED, Entry, Queue, locked
from tomoseg.batch.archive.rules import Rule, choose_rule
from tomoseg.batch.archive.status import save_status
from tomoseg.batch.cases import Case
from tomoseg.batch.local import LocalExecutor
from tomoseg.batch.options import OutputOptions
from tomoseg.batch.run import run_batch
from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.registry import find_bundle
from tomoseg.core.errors import OutputError, VolumeError, one_line
from tomoseg.core.files import remove_stale
from tomoseg.core.notes import print_error, print_line
from tomoseg.data.dicom.file_reader import read_dataset
from tomoseg.data.output_types import combine
from tomoseg.data.segments import Predecessor
from tomoseg.inference.segmenter import Segmenter
from tomoseg.report.html.document import save_reports
from tomoseg.report.records import CaseReport

SETTLE_S = 60.0
LOOK_EVERY_S = 5.0  # between two searches, or a quarter of the time to settle if that is less
MAX_PAUSE_S = 60.0  # between two searches of an archive that is down
SEARCH_EVERY_S = 600.0  # also where an archive says that nothing has changed
MAX_CASES_ON_PAGE = 300
IMAGES, RESULTS = "images", "results"


def watch_archive(
    url: str,
    state: str | os.PathLike[str],
    rules: Sequence[Rule],
    *,
    settle_s: float = SETTLE_S,
    options: ArchiveOptions | None = None,
    run_options: RunOptions | None = None,
    on_line: Callable[[str], None] = print_line,
) -> Generator[dict[str, int], None, None]:
    """Segment the series of an archive that a rule fits, store the results in their studies, and go on for ever.

    Args:
        url: of the archive's DICOMweb.
        state: folder of the queue, of images and results until they are stored, and of the pages.
        rules: which bundle segments which series; the first that fits counts.
        settle_s: a series is complete when its number of images has not changed for so many seconds.
        options: of the archive.
        run_options: how the bundles are run.
        on_line: called with a line when a step of a series is done; errors are printed.

    Yields:
        The number of series of each step, after each step and after each look at the archive.

    Raises:
        UsageError: another process watches with this state, or the address is none.
        BundleError: a bundle cannot be used.
    """
    options = options or ArchiveOptions()
    archive = Archive(url, options.ca_file)
    output = OutputOptions(follow=True, measure=False)  # results of an earlier state of a series are replaced
    executors = {
        name: LocalExecutor(Segmenter(find_bundle(name), run_options), output)
        for name in dict.fromkeys(rule.bundle for rule in rules)
    }
    watcher = _Watcher(archive, Queue(Path(state)), Path(state), rules, options, executors, on_line)
    with closing(watcher.queue), locked(Path(state)):
        watcher.clean()
        while True:
            watcher.look(time.time(), min(LOOK_EVERY_S, settle_s / 4))
            entry = watcher.queue.next_due(settle_s, time.time())
            if entry is not None:
                watcher.advance(entry)
            counts = watcher.queue.counts()
            watcher.save(counts)
            yield counts
            if entry is None:
                time.sleep(min(LOOK_EVERY_S, max(settle_s / 4, 0.05)))


@dataclass(eq=False)
class _Watcher:
    """One process that watches an archive; the arguments of `watch_archive`, ready for use."""

    archive: Archive
    queue: Queue
    state: Path
    rules: Sequence[Rule]
    options: ArchiveOptions
    executors: Mapping[str, LocalExecutor]
    on_line: Callable[[str], None]
    last_change: int | None = None
    next_look: float = 0
    searched: float = 0
    down_since: float = 0
    saved: dict[str, int] = field(default_factory=dict)
    cases: dict[str, deque[CaseReport]] = field(default_factory=dict)

    def clean(self) -> None:
        """Remove what a killed process left, and nothing that is still needed."""
        active = self.queue.active()
        for folder in (self.state / IMAGES, self.state / RESULTS):
            remove_stale(folder)
            for path in folder.glob("*"):
                if not any(path.name.lstrip(".").startswith(uid) for uid in active):
                    _remove(path)

    def look(self, now: float, pause_s: float) -> None:
        """Search the archive, where it may have changed; an archive that is down is asked again later."""
        if self.next_look - 2 * MAX_PAUSE_S < now < self.next_look:
            return
        self.next_look = now + pause_s
        last = self.archive.last_change()
        if last is not None and last == self.last_change and 0 <= now - self.searched < SEARCH_EVERY_S:
            return
        try:
            found = list(self.archive.search(self.options.since))
        except ArchiveError as error:
            if not self.down_since:
                print_error(one_line(error))
                self.down_since = now
            self.next_look += min(max(now - self.down_since, 0), MAX_PAUSE_S)  # the longer it lasts, the rarer
            return
        self.queue.observe([(series, choose_rule(self.rules, series)) for series in found], now)
        if self.down_since:
            self.on_line(f"{self.archive.url}: answers again")
        self.last_change, self.searched, self.down_since = last, now, 0.0

    def advance(self, entry: Entry) -> None:
        """Do the next step of a series, and note what came of it."""
        begun = time.monotonic()
        try:
            step = {FETCHED: self._segment, SEGMENTED: self._store}.get(entry.step, self._fetch)(entry)
        except (ArchiveError, OutputError) as error:
            self._fail(entry, one_line(error))
        except VolumeError as error:
            self._fail(entry, one_line(error), for_good=True)
        else:
            self.on_line(f"{entry.uid}: {step} ({time.monotonic() - begun:.1f} s)")

    def _fail(self, entry: Entry, reason: str, *, for_good: bool = False) -> None:
        reason = reason.removeprefix(f"{entry.uid}: ")
        given_up = self.queue.fail(entry, reason, time.time(), for_good=for_good)
        if for_good:
            _remove(self._images(entry))
        print_error(f"{entry.uid}: {reason}{'; given up' if given_up else '; tried again later'}")

    def _fetch(self, entry: Entry) -> str:
        folder = self._images(entry)
        _remove(folder)
        count = self.archive.fetch(entry.study, entry.uid, folder, self.options.max_bytes, self.options.max_images)
        if count != entry.images:
            _remove(folder)
            raise ArchiveError(f"{self.archive.url}: sent {count} images of a series of {entry.images}")
        self.queue.advance(entry.uid, FETCHED)
        return f"{count} images fetched"

    def _segment(self, entry: Entry) -> str:
        executor = self.executors.get(entry.bundle)
        if executor is None:
            raise VolumeError(f"{entry.bundle}: no rule has this bundle any more. Retry it")
        case = self._case(entry)
        report = run_batch([case], executor)
        (record,) = report.cases
        cases = self.cases.setdefault(entry.bundle, deque(maxlen=MAX_CASES_ON_PAGE))
        cases.append(replace(record, output=None))  # which does not stay
        with suppress(OutputError):  # a page is written again after the next series
            save_reports(replace(report, cases=tuple(cases)), self.state / executor.bundle.name)
        if record.status == "failed":
            raise VolumeError(record.reason)
        self.queue.advance(entry.uid, SEGMENTED)
        return f"segmented by {executor.bundle.name}"

    def _store(self, entry: Entry) -> str:
        case = self._case(entry)
        paths = [case.output, *case.output_type.further_files(case.output)]
        if not all(path.is_file() for path in paths):
            raise VolumeError(f"{entry.uid}: its results are gone. Retry it")
        self.archive.store(entry.study, paths)
        self.queue.advance(entry.uid, STORED, tuple(map(_read_predecessor, paths)))
        for path in (*paths, case.manifest, self._images(entry)):
            _remove(path)
        return f"{len(paths)} results stored"

    def _case(self, entry: Entry) -> Case:
        """Return the scan and its results; reports and messages call it by its UID."""
        kind, folder = combine(entry.output_types), self.state / RESULTS
        return Case(
            self._images(entry), folder / f"{entry.uid}{kind.ending}", kind, entry.uid, True,
            folder=folder, number=entry.uid, earlier=entry.earlier, replaces=entry.results,
        )  # fmt: skip

    def _images(self, entry: Entry) -> Path:
        return self.state / IMAGES / entry.uid

    def save(self, counts: dict[str, int]) -> None:
        """Write the page of the state, where it has changed."""
        if counts != self.saved:
            with suppress(OutputError):  # of a full disk; it is written again
                save_status(self.state, self.archive.url, self.queue)
                self.saved = counts


def _read_predecessor(path: Path) -> Predecessor:
    with disable_value_validation():
        found = read_dataset(path, ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"])
    return Predecessor(str(found.SOPClassUID), str(found.SOPInstanceUID), str(found.SeriesInstanceUID))


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)  # does nothing to a file or a link
    with suppress(OSError):
        path.unlink()

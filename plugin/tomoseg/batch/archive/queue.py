"""The queue of a watched archive: one SQLite file, in which each step of each series is committed when it is done.

A process may be killed at any moment: each step can be done again, and gives the same.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tomoseg.batch.archive.rules import FoundSeries, Rule
from tomoseg.core.errors import OutputError, UsageError, errors_as, shorten
from tomoseg.data.segments import Predecessor

FILE, LOCK = "state.sqlite", "watch.lock"
VERSION = 1
# the steps that a series has behind it
IGNORED, ARRIVING, FETCHED, SEGMENTED, STORED = "ignored", "arriving", "fetched", "segmented", "stored"
FIRST_WAIT_S, MAX_WAIT_S, GIVE_UP_AFTER_S = 30.0, 3600.0, 86400.0
MAX_REASON_LENGTH = 500
TABLE = """
CREATE TABLE IF NOT EXISTS series (
    uid TEXT PRIMARY KEY, study TEXT NOT NULL, images INTEGER NOT NULL, changed REAL NOT NULL, step TEXT NOT NULL,
    bundle TEXT NOT NULL, output_types TEXT NOT NULL, due REAL NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,
    failing_since REAL, failed INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '',
    earlier INTEGER NOT NULL DEFAULT 0, results TEXT NOT NULL DEFAULT '[]'
)
"""
DUE = """
SELECT * FROM series
WHERE step IN ('arriving', 'fetched', 'segmented') AND NOT failed AND (due <= :now OR due > :now + :longest)
    AND (step != 'arriving' OR NOT changed BETWEEN :now - :settle + 1e-6 AND :now)
ORDER BY step = 'arriving', changed, uid LIMIT 1
"""
AGAIN = "due = 0, attempts = 0, failing_since = NULL, failed = 0, reason = ''"


@dataclass(frozen=True)
class Entry:
    """A series in the queue.

    Attributes:
        uid, study: UIDs.
        images: number of instances in the archive.
        step: the last one that is done.
        bundle, output_types: how it is segmented.
        attempts: of the next step, which all failed.
        failing_since: when the first of them was.
        failed: it is not tried again.
        reason: of the last failure.
        earlier: number of results that were stored before.
        results: the last of these.
    """

    uid: str
    study: str
    images: int
    step: str
    bundle: str
    output_types: tuple[str, ...]
    attempts: int
    failing_since: float | None
    failed: bool
    reason: str
    earlier: int
    results: tuple[Predecessor, ...]


class Queue:
    """The series of an archive in the folder of a state; times are seconds since 1970.

    Args:
        folder: made where it is not there, for this user only.

    Raises:
        OutputError: the file is no such state, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        with self._errors():
            folder.mkdir(0o700, parents=True, exist_ok=True)
            self._db = sqlite3.connect(self._path, timeout=30)
            self._db.row_factory = sqlite3.Row
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise OutputError(f"{self._path}: another version of tomoseg wrote it. Choose another folder")
            with self._db:
                self._db.execute(TABLE)
                self._db.execute(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def observe(self, found: Iterable[tuple[FoundSeries, Rule | None]], now: float) -> None:
        """Note what the archive holds now; a series whose number of images changed arrives again.

        Args:
            found: each series with the rule that fits it, if there is one.
            now: the time.
        """
        rows = [
            {
                "uid": series.uid, "study": series.study, "images": series.images, "now": now,
                "step": IGNORED if rule is None else ARRIVING,
                "bundle": "" if rule is None else rule.bundle,
                "output_types": "" if rule is None else ",".join(rule.output_types),
            }
            for series, rule in found
        ]  # fmt: skip
        with self._errors(), self._db:
            self._db.executemany(
                "INSERT INTO series (uid, study, images, changed, step, bundle, output_types) "
                "VALUES (:uid, :study, :images, :now, :step, :bundle, :output_types) ON CONFLICT (uid) DO UPDATE SET "
                "changed = CASE WHEN images = :images THEN changed ELSE :now END, images = :images, study = :study, "
                f"step = :step, bundle = :bundle, output_types = :output_types, {AGAIN} "
                "WHERE images != :images OR (step IN ('ignored', 'arriving') AND "
                "(step, bundle, output_types) != (:step, :bundle, :output_types))",
                rows,
            )

    def next_due(self, settle_s: float, now: float) -> Entry | None:
        """Return the series whose next step is to be done; those that are under way come first."""
        with self._errors():
            found = self._db.execute(DUE, {"now": now, "settle": settle_s, "longest": MAX_WAIT_S}).fetchone()
        return None if found is None else _read(found)

    def advance(self, uid: str, step: str, results: tuple[Predecessor, ...] | None = None) -> None:
        """Note that a step is done; with results, that these are in the archive."""
        sql, values = f"UPDATE series SET step = ?, {AGAIN}", [step]
        if results is not None:
            sql += ", earlier = earlier + 1, results = ?"
            values.append(json.dumps([asdict(one) for one in results]))
        with self._errors(), self._db:
            self._db.execute(f"{sql} WHERE uid = ?", (*values, uid))

    def fail(self, entry: Entry, reason: str, now: float, *, for_good: bool = False) -> bool:
        """Note that a step failed, to be tried again after a growing wait; return whether it is given up.

        Args:
            entry: the series.
            reason: shown in the status.
            now: the time.
            for_good: do not try again. The images are fetched again after `retry`.
        """
        wait = min(FIRST_WAIT_S * 2.0 ** min(entry.attempts, 16), MAX_WAIT_S)
        since = now if entry.failing_since is None else entry.failing_since
        given_up = for_good or now - since >= GIVE_UP_AFTER_S
        step, shown = ARRIVING if for_good else entry.step, shorten(reason, MAX_REASON_LENGTH)
        sql = "step = ?, attempts = attempts + 1, reason = ?, due = ?, failing_since = ?, failed = ?"
        with self._errors(), self._db:
            values = (step, shown, now + wait, since, given_up, entry.uid)
            self._db.execute(f"UPDATE series SET {sql} WHERE uid = ?", values)
        return given_up

    def retry(self) -> int:
        """Let failed series, and those that wait, be tried at once; return how many there are."""
        with self._errors(), self._db:
            return self._db.execute(f"UPDATE series SET {AGAIN} WHERE failed OR attempts").rowcount

    def counts(self) -> dict[str, int]:
        """Return the number of series of each step; those that failed, or wait for an attempt, as such."""
        sql = (
            "SELECT CASE WHEN failed THEN 'failed' WHEN attempts THEN 'waiting' ELSE step END AS shown, count(*) "
            "FROM series GROUP BY shown ORDER BY shown"
        )
        with self._errors():
            return dict(self._db.execute(sql).fetchall())

    def troubled(self, most: int) -> list[Entry]:
        """Return the series that failed, or wait for their next attempt."""
        sql = "SELECT * FROM series WHERE failed OR attempts ORDER BY failed DESC, changed LIMIT ?"
        with self._errors():
            return list(map(_read, self._db.execute(sql, (most,))))

    def active(self) -> set[str]:
        """Return the series whose images or results are still needed here."""
        with self._errors():
            found = self._db.execute("SELECT uid FROM series WHERE step IN ('fetched', 'segmented')")
            return {row["uid"] for row in found}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        remedy = ". Choose another folder with -o"
        with errors_as(OutputError, f"{self._path}: cannot be used", sqlite3.Error, OSError, remedy=remedy):
            yield


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second process out of a state; the system gives it free when this one ends, however that is.

    Raises:
        UsageError: another process has it.
    """
    what, remedy = f"{folder}: another `tomoseg watch` uses it", ". Stop that first"
    with (
        closing(sqlite3.connect(folder / LOCK, timeout=0)) as lock,
        errors_as(UsageError, what, sqlite3.OperationalError, remedy=remedy),
    ):
        lock.execute("BEGIN EXCLUSIVE")
        yield


def open_state(folder: str | os.PathLike[str]) -> Queue:
    """Open the state that `watch` has written.

    Raises:
        UsageError: there is none.
    """
    if not (Path(folder) / FILE).is_file():
        raise UsageError(f"{folder}: holds no state of `tomoseg watch`. Give the folder of its -o")
    return Queue(Path(folder))


def _read(row: sqlite3.Row) -> Entry:
    values = {field.name: row[field.name] for field in fields(Entry)}
    values["failed"], values["output_types"] = bool(row["failed"]), tuple(row["output_types"].split(","))
    values["results"] = tuple(Predecessor(**one) for one in json.loads(row["results"]))
    return Entry(**values)

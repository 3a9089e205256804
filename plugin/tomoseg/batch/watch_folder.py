"""A folder that scans arrive in: which of them are there in full."""

from collections import defaultdict
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from tomoseg.data.archive import is_archive
from tomoseg.data.discovery import ALL_SERIES, Scan, files_of, find_scans
from tomoseg.data.masks import without_masks
from tomoseg.data.scan_files import is_volume, visible_files

State: TypeAlias = tuple[int, int]  # size in bytes, time of the last change in ns
Signature: TypeAlias = frozenset[tuple[Path, State]]


@dataclass(eq=False)
class WatchFolder:
    """Find scans that have arrived and stopped growing.

    Each entry of the folder is looked at by itself: a file, or a folder with all that is in it. It is there in full
    when none of its files changed for a while; a transfer has no other sign that all of its senders keep to.

    Attributes:
        folder: where scans arrive.
        leave_out: a folder in it that is not looked into, such as that of the results.
        stable_for_s: how long nothing may have changed, in seconds.
        series, phase, modality, all_files: which scans are taken, as for `find_scans`.
    """

    folder: Path
    leave_out: Path
    stable_for_s: float
    series: str | None = None
    phase: str | None = None
    modality: str = ""
    all_files: bool = False
    _seen: dict[Path, tuple[State, float]] = field(default_factory=dict, init=False)  # and since when, in seconds
    _taken: dict[Path | Scan, Signature] = field(default_factory=dict, init=False)  # entries, and scans of them

    def poll(self, now: float) -> list[Scan]:
        """Return the complete scans that are new or have changed since they were returned.

        Args:
            now: time in seconds, from any origin.
        """
        self._look(now)
        entries = self._entries()
        ready: list[Scan] = []
        for entry, files in sorted(entries.items()):
            settled = all(now - self._seen[path][1] >= self.stable_for_s for path in files)
            if settled and self._is_new(entry, files):
                scans = self._scans(entry)
                ready += (one for one in scans if self._is_new(one, self._seen.keys() & set(files_of(one.path))))
        self._taken = {one: looks for one, looks in self._taken.items() if isinstance(one, Scan) or one in entries}
        return ready

    def _look(self, now: float) -> None:
        """Note what each file looks like now."""
        seen: dict[Path, tuple[State, float]] = {}
        for path in visible_files(self.folder, self.leave_out):
            try:
                status = path.stat()
            except OSError:  # gone since
                continue
            state = status.st_size, status.st_mtime_ns
            earlier, since = self._seen.get(path, (state, now))
            seen[path] = state, since if earlier == state else now
        self._seen = seen

    def _entries(self) -> dict[Path, set[Path]]:
        """Return the files of each entry; loose files that are no volume, DICOM or other, are the folder's own."""
        entries: dict[Path, set[Path]] = defaultdict(set)
        for path in self._seen:
            name = path.relative_to(self.folder).parts[0]
            if path.parent != self.folder:
                entries[self.folder / name].add(path)
            elif is_volume(path) or is_archive(path):
                entries[path] = self._seen.keys() & set(files_of(path))
            else:
                entries[self.folder].add(path)
        return entries

    def _scans(self, entry: Path) -> list[Scan]:
        """Return the scans of an entry; of loose files, the DICOM series that lie in the folder itself."""
        if entry.is_file() and not is_archive(entry):
            beside = [path for path in self._seen if path.parent == entry.parent and is_volume(path)]
            taken = self.series in (None, ALL_SERIES) and (self.all_files or entry in without_masks(beside, {entry}))
            return [Scan(entry)] * taken
        found = find_scans(entry, self.series, self.leave_out, self.modality, all_files=self.all_files)
        return found if entry != self.folder else [scan for scan in found if scan.path == entry]

    def _is_new(self, taken: Path | Scan, files: Set[Path]) -> bool:
        """Remember what the files of an entry or of a scan look like; return whether they looked otherwise before."""
        looks = frozenset((path, self._seen[path][0]) for path in files)
        before, self._taken[taken] = self._taken.get(taken), looks
        return before != looks

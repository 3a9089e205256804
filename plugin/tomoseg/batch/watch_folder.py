"""A folder that scans arrive in: which of them are there in full."""

from collections import defaultdict
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tomoseg.data.discovery import ALL_SERIES, Scan, files_of, find_scans
from tomoseg.data.masks import without_masks
from tomoseg.data.scan_files import is_volume, visible_files

State: TypeAlias = tuple[int, int]  # size in bytes, time of the last change in ns
Signature: TypeAlias = frozenset[tuple[Path, State]]


@dataclass(frozen=True)
class _Sight:
    """A file as it was seen, and since when it has looked so, in seconds."""

    state: State
    since: float


class WatchFolder:
    """Find scans that have arrived and stopped growing.

    Each entry of the folder is looked at by itself: a file, or a folder with all that is in it. It is there in full
    when none of its files changed for a while; a transfer has no other sign that all of its senders keep to.

    Args:
        folder: where scans arrive.
        leave_out: a folder in it that is not looked into, such as that of the results.
        stable_for_s: how long nothing may have changed, in seconds.
        series, modality, all_files: which scans are taken, as for `find_scans`.
    """

    def __init__(
        self,
        folder: Path,
        leave_out: Path,
        stable_for_s: float,
        series: str | None = None,
        modality: str = "",
        all_files: bool = False,
    ) -> None:
        self.folder = folder
        self._leave_out = leave_out
        self._settle_s = stable_for_s
        self._series, self._modality, self._all_files = series, modality, all_files
        self._seen: dict[Path, _Sight] = {}
        self._taken_entries: dict[Path, Signature] = {}
        self._taken_scans: dict[Scan, Signature] = {}

    def poll(self, now: float) -> list[Scan]:
        """Return the complete scans that are new or have changed since they were returned.

        Args:
            now: time in seconds, from any origin.
        """
        self._look(now)
        entries = self._entries()
        ready: list[Scan] = []
        for entry, files in sorted(entries.items()):
            signature = self._sign(files)
            settled = all(now - self._seen[path].since >= self._settle_s for path in files)
            if settled and self._taken_entries.get(entry) != signature:
                self._taken_entries[entry] = signature
                ready += filter(self._is_new, self._scans(entry))
        for gone in self._taken_entries.keys() - entries.keys():
            del self._taken_entries[gone]
        return ready

    def _look(self, now: float) -> None:
        """Note what each file looks like now."""
        seen: dict[Path, _Sight] = {}
        for path in visible_files(self.folder, self._leave_out):
            try:
                status = path.stat()
            except OSError:  # gone since
                continue
            state, earlier = (status.st_size, status.st_mtime_ns), self._seen.get(path)
            seen[path] = earlier if earlier and earlier.state == state else _Sight(state, now)
        self._seen = seen

    def _entries(self) -> dict[Path, set[Path]]:
        """Return the files of each entry; loose files that are no volume, DICOM or other, are the folder's own."""
        entries: dict[Path, set[Path]] = defaultdict(set)
        for path in self._seen:
            name = path.relative_to(self.folder).parts[0]
            if path.parent != self.folder:
                entries[self.folder / name].add(path)
            elif is_volume(path):
                entries[path] = self._seen.keys() & set(files_of(path))
            else:
                entries[self.folder].add(path)
        return entries

    def _scans(self, entry: Path) -> list[Scan]:
        """Return the scans of an entry; of loose files, the DICOM series that lie in the folder itself."""
        if entry.is_file():
            beside = [path for path in self._seen if path.parent == entry.parent and is_volume(path)]
            taken = self._series in (None, ALL_SERIES) and (self._all_files or entry in without_masks(beside, {entry}))
            return [Scan(entry)] * taken
        found = find_scans(entry, self._series, self._leave_out, self._modality, all_files=self._all_files)
        return found if entry != self.folder else [scan for scan in found if scan.path == entry]

    def _is_new(self, scan: Scan) -> bool:
        signature = self._sign(self._seen.keys() & set(files_of(scan.path)))
        if self._taken_scans.get(scan) == signature:
            return False
        self._taken_scans[scan] = signature
        return True

    def _sign(self, files: Set[Path]) -> Signature:
        return frozenset((path, self._seen[path].state) for path in files)

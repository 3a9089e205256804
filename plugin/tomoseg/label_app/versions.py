"""Weights that were trained, version by version, outside the bundle: the bundle's own stay as they were shipped."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoseg.core.errors import BundleError, UsageError, errors_as
from tomoseg.core.files import atomic_file, sha256, staging_folder
from tomoseg.core.json_files import read_json, write_json
from tomoseg.label_app.numbered import numbered_folders, take_number

if TYPE_CHECKING:
    import torch

SHIPPED_VERSION = 0
CURRENT = "current.json"


@dataclass(frozen=True)
class Version:
    """One version of a bundle's weights.

    Attributes:
        number: 0 for the bundle's own, else from 1 on.
        checkpoint: the file; None for the bundle's own.
        facts: of its training: time, starting version, number of cases and epochs.
    """

    number: int
    checkpoint: Path | None
    facts: dict[str, Any]


@dataclass(frozen=True)
class WeightsVersions:
    """The versions of one bundle: `0001/model.pt`, `0002/model.pt`, … and `current.json`, which names the one in use.

    Attributes:
        folder: where they are; it is made with the first version.
    """

    folder: Path

    @property
    def current(self) -> Version:
        """The version in use; read from disk each time, so that what another process trained is seen at once.

        Raises:
            BundleError: `current.json` is damaged, or names a version that is not there.
        """
        path = self.folder / CURRENT
        remedy = ". Remove it to use the shipped weights"
        with errors_as(BundleError, f"{path}: cannot be read", OSError, ValueError, KeyError, TypeError, remedy=remedy):
            number = int(read_json(path)["version"]) if path.exists() else SHIPPED_VERSION
        return self.version(number)

    def version(self, number: int) -> Version:
        """Return one version.

        Raises:
            BundleError: there is no such version.
        """
        if number == SHIPPED_VERSION:
            return Version(SHIPPED_VERSION, None, {})
        checkpoint = self.folder / f"{number:04}" / "model.pt"
        if not checkpoint.is_file():
            raise BundleError(f"{checkpoint}: no such version of the weights; there are {self.numbers}")
        facts: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            facts = read_json(checkpoint.parent / "version.json")
        return Version(number, checkpoint, facts)

    @property
    def numbers(self) -> list[int]:
        """Numbers of all versions, 0 for the bundle's own among them."""
        found = numbered_folders(self.folder).items()
        return [SHIPPED_VERSION, *(number for number, folder in found if (folder / "model.pt").is_file())]

    def publish(self, state: dict[str, torch.Tensor], use: bool = True, **facts: Any) -> Version:
        """Keep weights as the next version; a version is there whole or not at all.

        Args:
            state: what `load_state_dict` of the bundle's network takes.
            use: whether to use them from now on.
            facts: kept beside it.

        Raises:
            OutputError: they cannot be written.
        """
        import torch

        parent = self.current.number
        with staging_folder(self.folder) as staging:
            whole = staging / "whole"
            checkpoint = whole / "model.pt"
            with atomic_file(checkpoint) as temporary:
                torch.save(state, temporary)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            known = {"created": now, "from_version": parent, "sha256": sha256(checkpoint), **facts}
            write_json(whole / "version.json", known)
            number = take_number(self.folder, whole)
        if use:
            self._use(number)
        return self.version(number)

    def roll_back(self, to: int | None = None) -> Version:
        """Use an earlier version again; later ones are kept.

        Args:
            to: its number; None for the one that the current version was trained from.

        Raises:
            UsageError: there is none before the current one.
            BundleError: there is no such version.
        """
        current = self.current
        if to is None and current.number == SHIPPED_VERSION:
            raise UsageError(
                f"{self.folder}: the bundle's own weights are in use already; there is nothing before them"
            )
        number = int(current.facts.get("from_version", SHIPPED_VERSION)) if to is None else to
        version = self.version(number)
        self._use(number)
        return version

    def _use(self, number: int) -> None:
        write_json(self.folder / CURRENT, {"version": number})

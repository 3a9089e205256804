"""Each annotation that was submitted, so that none is lost to the next one of its image."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from tomoseg.core.errors import SchemaVersionError, UsageError, shorten
from tomoseg.core.files import remove_stale, sha256, staging_folder
from tomoseg.core.json_files import read_json, write_json
from tomoseg.label_app.numbered import numbered_folders, take_number

KEPT = 20  # submissions of an image
DEFAULT_CLIENT = "user-xyz"  # what 3D Slicer calls itself if a person has not said otherwise
MAX_NAME = 100  # letters of an annotator's name


def annotator(login: str, client: object) -> str:
    """Return the name of who submits labels: that of the log-in, else the client's; empty if it is unknown."""
    named = isinstance(client, str) and client != DEFAULT_CLIENT
    return login or (shorten(str(client), MAX_NAME) if named else "")


@dataclass(frozen=True)
class Submission:
    """One version of an image's labels.

    Attributes:
        number: from 1 on.
        label: the file that was stored.
        facts: `created`, `user` (who drew it), `weights` (that drew the labels before), `label_info`, and `restored`
            for one that was stored again; those that are known.
    """

    number: int
    label: Path
    facts: dict[str, Any]

    @property
    def user(self) -> str:
        """Who drew it."""
        return str(self.facts.get("user") or "someone unknown")

    def __str__(self) -> str:
        more = {"created": "", "weights": "from ", "restored": "restored from version "}
        known = (f", {text}{self.facts[name]}" for name, text in more.items() if self.facts.get(name))
        return f"version {self.number} by {self.user}{''.join(known)}"


@dataclass(frozen=True)
class History:
    """The last submissions of all images.

    Attributes:
        folder: one folder for each image, named by its id's hash; made with the first submission.
    """

    folder: Path

    def of(self, image_id: str) -> list[Submission]:
        """Return the submissions of an image, oldest first."""
        found = []
        for number, folder in numbered_folders(self._place(image_id)).items():
            facts: dict[str, Any] = {}
            with suppress(OSError, ValueError, SchemaVersionError):
                facts = read_json(folder / "submission.json")
            found += [Submission(number, label, facts) for label in folder.glob("label.*") if label.is_file()]
        return found

    def find(self, image_id: str, number: int) -> Submission:
        """Return one submission.

        Raises:
            UsageError: there is no such submission.
        """
        known = {one.number: one for one in self.of(image_id)}
        if number not in known:
            there = f"there are {', '.join(map(str, known))}" if known else "nothing was submitted"
            raise UsageError(f"image {image_id!r}: has no submission {number}; {there}")
        return known[number]

    @contextmanager
    def adding(self, image_id: str, facts: Mapping[str, Any]) -> Iterator[Path]:
        """Yield a folder for `label.*`, which becomes the newest submission if nothing fails meanwhile.

        Raises:
            OutputError: it cannot be written.
        """
        self.folder.mkdir(0o700, parents=True, exist_ok=True)
        place = self._place(image_id)
        remove_stale(place)
        # one at a time, so that the newest is the one that was stored last
        with FileLock(self.folder.with_name(".history.lock")), staging_folder(place) as staging:
            (whole := staging / "whole").mkdir()
            yield whole
            now = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(whole / "submission.json", {"image": image_id, "created": now, **facts})
            take_number(place, whole)
        for folder in list(numbered_folders(place).values())[:-KEPT]:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, image_id: str, label: Path, label_info: object) -> None:
        """Add a label that is about to be replaced, unless it is the newest submission: it came on another way.

        Args:
            image_id: the image, with which the file's name begins.
            label: the file.
            label_info: names of its values, where they are known.
        """
        known = self.of(image_id)
        if not label.is_file() or (known and sha256(known[-1].label) == sha256(label)):
            return
        with self.adding(image_id, {"label_info": label_info}) as folder:
            shutil.copyfile(label, folder / f"label{label.name.removeprefix(image_id)}")

    def _place(self, image_id: str) -> Path:
        return self.folder / hashlib.sha256(image_id.encode(errors="surrogatepass")).hexdigest()[:32]

"""Folder of a MONAI Label app, with its trained weights."""

import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.registry import find_bundle, registered_names
from tomoseg.bundle.trust import CODE_SUFFIXES, code_files
from tomoseg.core.errors import BundleError, OutputError, UsageError, errors_as
from tomoseg.core.files import atomic_file, read_text
from tomoseg.core.json_files import read_json, write_json
from tomoseg.label_app.history import History
from tomoseg.label_app.versions import WeightsVersions

MAIN = '''"""A MONAI Label app that runs tomoseg's bundles; written by `tomoseg label-app`."""

# MONAI Label looks in here for a class that derives from MONAILabelApp
from tomoseg.label_app.app import TomosegApp

__all__ = ["TomosegApp"]
'''
SETTINGS = "tomoseg.json"
# from a model's name MONAI Label's clients and sample apps guess what kind of model it is
MISLEADING = re.compile("detection|deepedit|deepgrow|classification", re.IGNORECASE)


@dataclass(frozen=True)
class LabelApp:
    """A folder with `main.py`, `tomoseg.json` (which bundles), `models/` (trained weights) and `history/` (labels).

    Attributes:
        root: the folder.

    Example:
        >>> import tomoseg
        >>> from pathlib import Path
        >>> [bundle.name for bundle in tomoseg.LabelApp(Path("label_app")).write(["hippocampus"])]
        ['hippocampus_mr_segmentation']
    """

    root: Path

    def write(self, bundles: Sequence[str] = ()) -> tuple[Bundle, ...]:
        """Write the app, or change which bundles an app serves; trained weights stay.

        Args:
            bundles: names, beginnings of names, or folders; all that are registered if there are none.

        Returns:
            The bundles that it serves.

        Raises:
            UsageError: the folder holds another app, or a bundle's name would mislead MONAI Label's clients.
            BundleError: a bundle is unknown or unusable.
            OutputError: the folder cannot be written to.
        """
        main = self.root / "main.py"
        if main.is_file() and "tomoseg" not in read_text(main, errors="replace"):
            raise UsageError(f"{main}: belongs to another MONAI Label app. Choose another folder")
        if self.root.exists() and not self.root.is_dir():
            raise UsageError(f"{self.root}: expected a folder, got a file")
        found = load_bundles(bundles or registered_names())
        with errors_as(OutputError, f"{self.root}: cannot be written", OSError):
            self.root.mkdir(0o700, parents=True, exist_ok=True)
        # a folder is found again from wherever the server is started
        names = [one.name if one.name in registered_names() else str(one.place.resolve()) for one in found]
        settings: dict[str, Any] = {"bundles": names}
        with suppress(UsageError):  # it served none yet
            settings["studies"] = self.studies
        write_json(self.root / SETTINGS, settings)
        with atomic_file(main) as temporary:
            temporary.write_text(MAIN, encoding="utf-8")
        return found

    def require_own_code(self) -> None:
        """Refuse Python code in the folder that `write` did not write, for MONAI Label would run it unasked.

        Raises:
            UsageError: there is such code.
        """
        main = self.root / "main.py"
        shutil.rmtree(self.root / "__pycache__", ignore_errors=True)  # Python would believe it
        with errors_as(UsageError, f"{self.root}: cannot be read", OSError):
            found = [path for path in code_files(self.root) if path.suffix.lower() in CODE_SUFFIXES]
            found += self.root.glob(".env")  # MONAI Label would read its settings there
            strange = [path for path in found if path != main or read_text(path, errors="replace") != MAIN]
        if strange:
            raise UsageError(
                f"{strange[0]}: MONAI Label would run it, and tomoseg did not write it. Look at it, remove it, and "
                f"make the app again with: tomoseg label-app {self.root}"
            )

    @property
    def bundles(self) -> tuple[Bundle, ...]:
        """The bundles that it serves.

        Raises:
            UsageError: it is no folder that `write` made.
            BundleError: a bundle is unknown or unusable.
        """
        return load_bundles([str(name) for name in self._setting("bundles")])

    @property
    def studies(self) -> str:
        """The studies that it served last.

        Raises:
            UsageError: it is no folder that `write` made, or it served none yet.
        """
        return str(self._setting("studies"))

    def serve(self, studies: str) -> None:
        """Keep which studies it serves.

        Raises:
            UsageError, OutputError: it is no folder that `write` made, or cannot be written to.
        """
        write_json(self.root / SETTINGS, {"bundles": self._setting("bundles"), "studies": studies})

    def _setting(self, name: str) -> Any:
        path = self.root / SETTINGS
        if not path.exists():
            raise UsageError(f"{path}: missing. Make the app with: tomoseg label-app {self.root}")
        damage, remedy = (OSError, ValueError, KeyError, TypeError), ". Make the app again"
        with errors_as(UsageError, f"{path}: cannot be read", *damage, remedy=remedy):
            return read_json(path)[name]

    @property
    def history(self) -> History:
        """The labels that were submitted."""
        return History(self.root / "history")

    def weights(self, bundle: Bundle) -> WeightsVersions:
        """Return the weights that were trained for a bundle."""
        return WeightsVersions(self.root / "models" / bundle.name)


def is_dicomweb(studies: str) -> bool:
    """Return whether studies are the URL of a DICOMweb archive, and no folder."""
    return studies.startswith(("http://", "https://"))


def load_bundles(names: Sequence[str]) -> tuple[Bundle, ...]:
    """Return bundles by name, beginning of a name or folder, and make sure that they can be served.

    Raises:
        UsageError: two have one name, or a name would mislead MONAI Label's clients; or one takes several channels.
        BundleError: one is unknown or unusable.
    """
    found = tuple(find_bundle(name) for name in names)
    if not found:
        raise BundleError("expected a bundle, none is registered; reinstall tomoseg")
    for bundle in found:
        where = f"bundle {bundle.name}"
        if MISLEADING.search(bundle.name):
            raise UsageError(f"{where}: MONAI Label takes the name for another kind of model. Rename the folder")
        if bundle.input_channels > 1:
            raise UsageError(f"{where}: takes {bundle.input_channels} channels; MONAI Label's clients send one")
        _ = bundle.inference_config, bundle.label_table
    if len({bundle.name for bundle in found}) < len(found):
        raise UsageError(f"expected bundles with different names, got {', '.join(bundle.name for bundle in found)}")
    return found

"""The proof that a scan was finished: what it was made from, how, and what came of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import Options
from tomoseg.core.files import atomic_file, sha256
from tomoseg.data.discovery import files_of
from tomoseg.report.records import UNENCODABLE, CaseReport

# of the options, what changes how long it takes and not what comes of it
WITHOUT_EFFECT = {"device", "max_memory", "compile", "skip_empty", "threads"}


@dataclass(frozen=True)
class Sidecar:
    """A hidden file beside a label map, written before the label map takes its name.

    Args:
        scan: SHA-256 over the files of the scan.
        run: SHA-256 over the bundle, its weights and the options that matter.
        outputs: SHA-256 of each file that was made, by its name.
        case: what the report says of it.
    """

    scan: str
    run: str
    outputs: dict[str, str]
    case: CaseReport

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically.

        Raises:
            OutputError: it cannot be written.
        """
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8", errors=UNENCODABLE)

    def made(self, path: Path) -> bool:
        """Tell whether a file is as it was made."""
        return path.is_file() and self.outputs.get(path.name) == sha256(path)

    def proves(self, scan: str, run: str, outputs: Sequence[Path]) -> bool:
        """Tell whether these outputs were made from this scan by this run, and are all as they were made."""
        return (self.scan, self.run) == (scan, run) and all(map(self.made, outputs))


def read_sidecar(path: Path) -> Sidecar | None:
    """Return what a sidecar says; None if there is none, or none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Sidecar(content["scan"], content["run"], dict(content["outputs"]), CaseReport.from_dict(content["case"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def hash_scan(paths: Sequence[Path], *others: Any) -> str:
    """Return the SHA-256 over the contents of the files of a scan, whatever they are called.

    Args:
        paths: a file, or a folder with DICOM files; a file for each channel.
        others: what else is asked of this scan alone, e.g. the series and the format.

    Raises:
        OSError: one of them cannot be read.
    """
    # the files of one channel have no order, those of several do
    return _hash([*(sorted(map(sha256, files_of(path))) for path in paths), list(others)])


def hash_run(bundle: Bundle, checkpoints: Sequence[str], options: Options, precision: str) -> str:
    """Return the SHA-256 over all besides the scan that decides what comes of it.

    Args:
        bundle: the bundle.
        checkpoints: SHA-256 of the weights in use.
        options: as the user asked for them.
        precision: what the network computes in.
    """
    asked = {key: value for key, value in asdict(options).items() if key not in WITHOUT_EFFECT | {"checkpoints"}}
    described = [sha256(bundle.inference_config), sha256(bundle.root / "configs" / "metadata.json"), bundle.name]
    return _hash([described, list(checkpoints), asked, precision])


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

"""Manifest of a finished scan: hash of the input, hash of the run settings, hashes of the outputs."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import RunOptions
from tomoseg.core.files import sha256
from tomoseg.core.json_files import hash_json, read_json, write_json
from tomoseg.core.json_records import from_json
from tomoseg.report.records import CaseReport

MAX_LABEL = np.iinfo(np.uint16).max  # that a label map can hold
# of the options, what changes how long it takes and not what comes of it
WITHOUT_EFFECT = {"device", "max_memory", "compile", "skip_empty", "threads", "read_timeout", "allow_large"}


@dataclass(frozen=True)
class Manifest:
    """A hidden file beside a label map, written before the label map takes its name.

    Attributes:
        scan: SHA-256 over the files of the scan.
        run: SHA-256 over the bundle, its weights and the options that matter.
        outputs: SHA-256 of each file that was made, by its place below the manifest's folder.
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
        write_json(path, asdict(self))

    def made(self, folder: Path, path: Path) -> bool:
        """Return whether an output file below the manifest's folder is unchanged."""
        known = self.outputs.get(path.relative_to(folder).as_posix())
        return known is not None and path.is_file() and not path.is_symlink() and known == sha256(path)

    def proves(self, scan: str, run: str, folder: Path, outputs: Iterable[Path]) -> bool:
        """Return whether this run made these outputs from this scan, and none has changed."""
        return (self.scan, self.run) == (scan, run) and all(self.made(folder, path) for path in outputs)


def read_manifest(path: Path) -> Manifest | None:
    """Return what a manifest says; None if there is none, or a value in it is of another type than was written.

    A person who may write into the folder can write a manifest, too: no path comes from it.

    Raises:
        SchemaVersionError: a newer version of tomoseg wrote it.
    """
    try:
        content = read_json(path)
        manifest: Manifest = from_json(Manifest, content)
        return manifest if all(1 <= row.label <= MAX_LABEL for row in manifest.case.labels) else None
    except (OSError, RecursionError, ValueError):
        return None


def hash_run(bundle: Bundle, checkpoints: Sequence[str], options: RunOptions, precision: str) -> str:
    """Return the SHA-256 over all besides the scan that decides what comes of it.

    Args:
        bundle: the bundle.
        checkpoints: SHA-256 of the weights in use.
        options: as the user asked for them.
        precision: what the network computes in.
    """
    asked = {key: value for key, value in asdict(options).items() if key not in WITHOUT_EFFECT | {"checkpoints"}}
    described = [*map(sha256, bundle.inference_configs), sha256(bundle.root / "configs" / "metadata.json"), bundle.name]
    return hash_json([described, list(checkpoints), asked, precision])

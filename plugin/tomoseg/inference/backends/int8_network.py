"""Networks that `tomoseg export` quantised to 8 bits, with the hash of their origin."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomoseg.core.errors import BundleError, errors_as
from tomoseg.core.files import sha256
from tomoseg.inference.backends.openvino_model import import_openvino, openvino_core

RECORD_SECTION = "tomoseg"  # the section of the model's own information where the proof stands
AGAIN = "Make it with: tomoseg export BUNDLE --format openvino-int8 --calibration SCANS"


@dataclass(frozen=True)
class Int8Network:
    """A network in int8 that was found to be made from the weights in use.

    Attributes:
        xml: OpenVINO's file; its weights lie beside it in a file of the same name that ends in `.bin`.
        sha256: of the file, which holds that of its weights.
        checkpoint_sha256: of the file of the weights that it was made from.
    """

    xml: Path
    sha256: str
    checkpoint_sha256: str


def int8_path(checkpoint: Path) -> Path:
    """Return where the int8 network of a checkpoint lies: `models/model_int8.xml` for `models/model.pt`."""
    return checkpoint.with_name(f"{checkpoint.stem}_int8.xml")


def save_model(model: Any, xml: Path, checkpoint: Path, definition: Any, precision: str) -> None:
    """Write a model with its weights unchanged, and with the hash of its origin.

    Args:
        model: an OpenVINO model.
        xml: its file; the weights go beside it.
        checkpoint: file of the weights that were quantised.
        definition: the bundle's `network_def`.
        precision: "fp32" or "int8".
    """
    ov = import_openvino()
    ov.save_model(model, xml, compress_to_fp16=False)
    record = {
        "precision": precision,
        "checkpoint_sha256": sha256(checkpoint),
        "network_sha256": _hash(definition),
        "weights_sha256": sha256(xml.with_suffix(".bin")),
    }
    for key, value in record.items():
        model.set_rt_info(value, [RECORD_SECTION, key])
    ov.save_model(model, xml, compress_to_fp16=False)  # once more: only now the hash of its weights is known


def find_int8(xml: Path, checkpoints_sha256: Sequence[str], definition: Any) -> Int8Network:
    """Return an int8 network after making sure that it was made from these weights.

    Args:
        xml: its file.
        checkpoints_sha256: SHA-256 of the possible files of the weights.
        definition: the bundle's `network_def`.

    Raises:
        MissingPackageError: OpenVINO is not installed.
        BundleError: it is missing, damaged, none of ours, or was made from others.
    """
    if not xml.is_file():
        raise BundleError(f"{xml}: no int8 network there. {AGAIN}")
    weights = xml.with_suffix(".bin")
    if not weights.is_file():
        raise BundleError(f"{weights}: missing; the int8 network {xml.name} has its weights in this file. {AGAIN}")
    with errors_as(BundleError, f"{xml}: cannot be read as a network of OpenVINO", RuntimeError, remedy=f". {AGAIN}"):
        model = openvino_core().read_model(xml, weights)
    if _entry(model, "precision") != "int8":
        raise BundleError(f"{xml}: expected a network in int8 that tomoseg made, got another one. {AGAIN}")
    for key, values, what in (
        ("checkpoint_sha256", checkpoints_sha256, "from other weights than those in use"),
        ("network_sha256", [_hash(definition)], "from another network_def than the bundle's"),
        ("weights_sha256", [sha256(weights)], f"with other weights than those in {weights.name}"),
    ):
        if (found := _entry(model, key)) not in values:
            expected = " or ".join(f"{value[:12]}…" for value in values)
            raise BundleError(
                f"{xml}: was made {what}: expected SHA-256 {expected}, got {found[:12]}…. {AGAIN} --overwrite"
            )
    return Int8Network(xml, sha256(xml), _entry(model, "checkpoint_sha256"))


def _hash(definition: Any) -> str:
    return hashlib.sha256(repr(definition).encode()).hexdigest()


def _entry(model: Any, key: str) -> str:
    """Return an entry of a model's record, "" if there is none."""
    return str(model.get_rt_info([RECORD_SECTION, key]).value) if model.has_rt_info([RECORD_SECTION, key]) else ""

"""What a bundle that `tomoseg plan` wrote records of itself, and the entries of its train.json that training uses."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path

from tomoseg.bundle.configs import Json, as_plain, as_text
from tomoseg.core.json_files import SCHEMA_VERSION, read_json
from tomoseg.core.version import __version__

PLAN = "configs/plan.json"


class TrainEntry(StrEnum):
    """The entries at the top of a planned train.json that a training reads or sets."""

    FOLD = "fold"
    FOLDS = "folds"
    EPOCHS = "epochs"
    SEED = "seed"
    STEPS = "steps"
    BATCH_SIZE = "batch_size"
    VALIDATION_INTERVAL = "val_interval"
    CROP_SIZE = "crop_size"
    CACHE_DEVICE = "cache_device"
    NUM_WORKERS = "num_workers"
    CHECKPOINT_FOLDER = "ckpt_dir"
    LISTED = "listed"
    LISTED_VALIDATION = "listed_validation"
    ANNOTATED_NAMES = "annotated_names"
    CASE_IDS = "case_ids"
    TRAIN_CASES = "train_cases"
    VALIDATION_CASES = "val_cases"
    NEGATIVES_FOLDER = "negatives_dir"
    UNLABELLED_FILES = "unlabelled_files"  # of semi_supervised.json
    WEIGHTS = "inference_weights"


@dataclass(frozen=True)
class PlannedBundle:
    """The contents of `configs/plan.json`.

    Attributes:
        tomoseg: the version that planned the bundle.
        budget: memory in bytes, device and preset.
        modality: "CT" or "MR".
        choices: "value" and "reason" of each choice.
        dataset_labels: the names of each label in "dataset" and in "bundle", by its value in the dataset; the bundle
            numbers them from 1 in the same order.
        ignored: the value of nnU-Net's ignore label in the dataset.
        training_bytes: memory of a training step.
        fingerprint: the dataset in numbers.
    """

    tomoseg: str = __version__
    budget: Json = field(default_factory=dict)
    modality: str = ""
    choices: dict[str, Json] = field(default_factory=dict)
    dataset_labels: dict[str, Json] = field(default_factory=dict)
    ignored: int | None = None
    training_bytes: int = 0
    fingerprint: Json = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> PlannedBundle | None:
        """Return the record of the bundle in a folder; None if it has none or a damaged one."""
        try:
            content = read_json(root / PLAN)
            return cls(**{one.name: content[one.name] for one in fields(cls) if one.name in content})
        except (OSError, ValueError, TypeError):
            return None

    def as_text(self) -> str:
        """Return the text of the file."""
        return as_text(as_plain({"schema_version": SCHEMA_VERSION, **asdict(self)}))

    @property
    def case_shape(self) -> tuple[float, ...] | None:
        """The edges of the median scan in voxels of the network's grid; None where the record lacks them."""
        try:
            extent, spacing = self.fingerprint["median_extent_mm"], self.choices["spacing_mm"]["value"]
            return tuple(mm / by for mm, by in zip(extent, spacing, strict=True))
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def without_scans(self) -> bool:
        """Whether the dataset has label maps only, from which the training draws its images."""
        return bool(self.fingerprint) and "intensity_mean" not in self.fingerprint

    @property
    def channels(self) -> int:
        """Number of channels of a scan; a record without their names is of scans with one."""
        return len(self.fingerprint.get("channels", ("",)))

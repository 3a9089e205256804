"""A bundle as the app serves it: its labels, the weights in use, and segmenters that are ready."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

from filelock import FileLock

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.trust import require_trusted
from tomoseg.core.files import sha256
from tomoseg.inference.config import InferenceConfig
from tomoseg.inference.segmenter import Segmenter
from tomoseg.label_app.folder import LabelApp
from tomoseg.label_app.last_used import LastUsed
from tomoseg.label_app.score_store import AcquisitionScores
from tomoseg.label_app.served_labels import ServedLabels
from tomoseg.label_app.versions import Version

MAX_LOADED_SEGMENTERS = 2  # each with a network in memory


class ServedModel:
    """One bundle in an app.

    Args:
        bundle: the bundle.
        folder: the app, whose trained weights stand in for the bundle's own.

    Attributes:
        name: what MONAI Label calls it.
        labels: the labels that it serves.
        weights: the versions of its weights.
    """

    def __init__(self, bundle: Bundle, folder: LabelApp) -> None:
        self.bundle = bundle
        self.folder = folder
        self.name = bundle.name
        self.labels = ServedLabels.of(bundle)
        self.weights = folder.weights(bundle)
        self._loaded = LastUsed[Segmenter](MAX_LOADED_SEGMENTERS)
        self._sha256 = cache(sha256)

    @cached_property
    def config(self) -> InferenceConfig:
        """The bundle's inference config on the CPU, for its entries and the shape of its network."""
        return InferenceConfig(self.bundle)

    @property
    def checkpoint(self) -> Path:
        """The weights in use, trained here or the bundle's own.

        Raises:
            BundleError: the record of the version in use is damaged.
        """
        return self.weights.current.checkpoint or self.config.checkpoints[0]

    @property
    def checkpoint_sha256(self) -> str:
        """SHA-256 of the weights in use; files of weights are never changed, so each is read once."""
        return self._sha256(self.checkpoint)

    @property
    def acquisition_scores(self) -> AcquisitionScores:
        """Acquisition scores of the images under the weights in use."""
        return AcquisitionScores(self.weights.folder / "scores.json", self.checkpoint_sha256)

    def segmenter(self, options: RunOptions, version: Version | None = None) -> Segmenter:
        """Return a segmenter; the last few are kept.

        Args:
            options: how the bundle is run.
            version: of the weights; None for those in use now.

        Raises:
            UsageError, BundleError: as for `Segmenter`; also where the bundle's code changed since it was loaded.
        """
        require_trusted(self.bundle)
        trained = (version or self.weights.current).checkpoint
        wanted = replace(options, checkpoints=(str(trained),) if trained else options.checkpoints)
        return self._loaded.get(wanted, lambda: Segmenter(self.bundle, wanted))

    @contextmanager
    def turn(self, device: str) -> Iterator[None]:
        """Wait until no other process or thread of the app computes on a device.

        MONAI Label runs batches in processes of their own; two networks on one GPU may be more than its memory holds.

        Args:
            device: "cpu", "cuda:0", …; its lock is a hidden file in the app, which the system lets go if its holder is
                killed.
        """
        self.folder.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder.root / f".{device.replace(':', '_')}.lock", poll_interval=0.01):
            yield

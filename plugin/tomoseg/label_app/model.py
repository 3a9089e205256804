"""A bundle as the app serves it: its labels, the weights in use, and segmenters that are ready."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, cached_property, lru_cache
from pathlib import Path

from filelock import FileLock

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.trust import require_trusted
from tomoseg.core.files import sha256
from tomoseg.inference.config import InferenceConfig
from tomoseg.inference.localisation.locator import FindHead
from tomoseg.inference.segmenter import Segmenter
from tomoseg.label_app.clicks.scene import Scene, look
from tomoseg.label_app.folder import LabelApp
from tomoseg.label_app.known_heads import KnownHeads
from tomoseg.label_app.score_store import AcquisitionScores
from tomoseg.label_app.served_labels import ServedLabels
from tomoseg.label_app.versions import Version

MAX_SEGMENTERS = 4  # of one set of weights, with different options
MAX_SCENES = 2  # images, with their results and log-probabilities


class _Loaded:
    """The one set of weights in memory on a device, with its results for the last images.

    Args:
        bundle: the bundle.
        weights: device and checkpoint.
        find_head: finds the template's head in a whole scan.
    """

    def __init__(self, bundle: Bundle, weights: RunOptions, find_head: FindHead) -> None:
        first = Segmenter(bundle, weights)
        self.weights = weights
        self.segmenter = segmenter = lru_cache(MAX_SEGMENTERS)(
            lambda options: Segmenter(bundle, options, like=first, find_head=find_head)
        )
        self.scene = lru_cache(MAX_SCENES)(lambda options, source, changed: look(segmenter(options), source))


class ServedModel:
    """One bundle in an app.

    Args:
        bundle: the bundle.
        folder: the app, whose trained weights stand in for the bundle's own.

    Attributes:
        name: what MONAI Label calls it.
        labels: the labels that it serves.
        weights: the versions of its weights.
        heads: where heads lie in scans.
    """

    def __init__(self, bundle: Bundle, folder: LabelApp) -> None:
        self.bundle = bundle
        self.folder = folder
        self.name = bundle.name
        self.labels = ServedLabels.of(bundle)
        self.weights = folder.weights(bundle)
        self.heads = KnownHeads(folder.root / "heads")
        self._loaded: dict[str, _Loaded] = {}  # by device
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

    def segmenter(self, options: RunOptions) -> Segmenter:
        """Return a segmenter of the weights in use; all of a device share their networks, and the last few are kept.

        Raises:
            UsageError, BundleError: as for `Segmenter`; also where the bundle's code changed since it was loaded.
        """
        loaded, wanted = self._load(options, self.weights.current)
        return loaded.segmenter(wanted)

    def scene(self, source: Path, options: RunOptions, version: Version) -> Scene:
        """Return what the network makes of an image, from a moment ago if it is the same.

        Args:
            source: the image.
            options: how the bundle is run; where the structures are, if that is given by hand.
            version: of the weights.

        Raises:
            TomosegError: it cannot be segmented.
        """
        # clients send the bundle's own settings, too
        overlap = None if options.overlap == getattr(self.config.inferer, "overlap", None) else options.overlap
        tta = None if options.tta == self.config.tta else options.tta
        loaded, wanted = self._load(replace(options, overlap=overlap, tta=tta), version)
        found = source.stat() if source.exists() else None
        return loaded.scene(wanted, source, found and (found.st_mtime_ns, found.st_size))

    def _load(self, options: RunOptions, version: Version) -> tuple[_Loaded, RunOptions]:
        """Return the loaded weights of a version on a device, and the options with these weights."""
        require_trusted(self.bundle)
        weights = RunOptions(options.device, checkpoints=(str(version.checkpoint),) if version.checkpoint else ())
        if (loaded := self._loaded.pop(options.device, None)) is None or loaded.weights != weights:
            loaded = None  # it goes before others take memory
            loaded = _Loaded(self.bundle, weights, self.heads)
        self._loaded[options.device] = loaded
        return loaded, replace(options, checkpoints=weights.checkpoints)

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

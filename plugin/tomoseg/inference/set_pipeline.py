"""A set of bundles, run one after the other on one scan and merged into one label map."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.trust import require_trusted
from tomoseg.core.errors import BundleError, UsageError
from tomoseg.core.run_stats import RunStats
from tomoseg.data.geometry import Grid
from tomoseg.data.label_mapping import LabelMapping
from tomoseg.data.volume import Volume
from tomoseg.inference.label_map import to_label_map
from tomoseg.inference.pipeline import Pipeline, Prediction
from tomoseg.inference.sliding_window.stream import OnWindow

SCAN = "scan"  # the volume as it was read, in what `prepare` returns


class SetPipeline:
    """The bundles of a set with their weights loaded; used as a `Pipeline` is.

    Where two bundles claim a voxel, the later one in the set has it.

    Args:
        bundle: the set.
        device: where the networks run.
        options: how each bundle is run.

    Raises:
        UsageError: the options do not go with a set.
        BundleError: as for `Pipeline`, of any member.
    """

    def __init__(self, bundle: Bundle, device: torch.device, options: RunOptions) -> None:
        require_trusted(bundle)
        for name in ("checkpoints", "uncertainty"):
            if getattr(options, name):
                raise UsageError(f"--{name}: does not go with a set of bundles. Give one of its members with -b")
        self.bundle, self.device = bundle, device
        members = [(replace(member, trusted=True), values) for member, values in bundle.members]
        self._members = [(Pipeline(member, device, options), values) for member, values in members]
        first = self._members[0][0]
        self.config, self.replaces_non_finite = first.config, first.replaces_non_finite
        self.networks = SimpleNamespace(
            precision=first.networks.precision,
            backend=first.networks.backend,
            weights=[one for member, _ in self._members for one in member.networks.weights],
            modules=[module for member, _ in self._members for module in member.networks.modules],
        )

    def clean(self, volume: Volume) -> Volume:
        """Run the cleaning that the options ask for."""
        return self._members[0][0].clean(volume)

    def prepare(self, volume: Volume) -> dict[str, Any]:
        """Run the preprocessing of the first bundle, and keep the scan for the others."""
        return {**self._members[0][0].prepare(volume), SCAN: volume}

    def predict(
        self, data: dict[str, Any], scan: Grid, name: str, on_window: OnWindow | None = None, target: Grid | None = None
    ) -> Prediction:
        """Run the bundles and merge their labels; the arguments are those of `Pipeline.predict`."""
        largest = max(self.bundle.labels, default=0)
        merged = np.zeros((1, *scan.shape), np.min_scalar_type(largest))
        ran = RunStats()
        for index, (member, values) in enumerate(self._members):
            prepared = data if index == 0 else member.prepare(data[SCAN])

            def on_member(done: int, total: int, index: int = index) -> None:
                if on_window is not None:
                    on_window(index * total + done, total * len(self._members))

            found = member.predict(prepared, scan, name, on_member)
            labels = to_label_map(member.bundle, found.array, found.affine, scan)
            if labels.ndim != 3:
                raise BundleError(f"{member.bundle.root}: its labels may overlap. Leave it out of the set")
            np.copyto(merged[0], LabelMapping(values, keep_others=False).apply(labels), where=labels > 0)
            ran += found.stats
        return Prediction(merged, scan.affine, ran)

    def probabilities(self, data: dict[str, Any], grid: Grid) -> NDArray[np.float32]:
        """Raise BundleError: a set has several outputs."""
        raise BundleError(f"{self.bundle.root}: a set of bundles has no probabilities. Ask one of its members")


def load_pipeline(
    bundle: Bundle, device: torch.device, options: RunOptions, like: Pipeline | SetPipeline | None = None
) -> Pipeline | SetPipeline:
    """Return what runs a bundle, with the networks of another one if given, or a set; raises as `Pipeline` does."""
    if bundle.members:
        return SetPipeline(bundle, device, options)
    return Pipeline(bundle, device, options, like.networks if isinstance(like, Pipeline) else None)

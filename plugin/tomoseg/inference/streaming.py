"""One preprocessed image, from the network to labels: what `Segmenter` and `StreamingEvaluator` both run."""

import time
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from numpy.typing import NDArray

from tomoseg.core.run_stats import RunStats
from tomoseg.data.geometry import Grid
from tomoseg.inference.networks import Networks
from tomoseg.inference.sliding_window.confidence import FACES, ConfidenceSums
from tomoseg.inference.sliding_window.discretizer import Interpolated
from tomoseg.inference.sliding_window.ensemble import averaged
from tomoseg.inference.sliding_window.fused_postprocessing import FusedPostprocessing
from tomoseg.inference.sliding_window.placement import Placement, identity_placement, place
from tomoseg.inference.sliding_window.probabilities import sigmoid_entropy, softmax_entropy
from tomoseg.inference.sliding_window.stream import Limits, OnWindow, Output, StreamedRun

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Engine:
    """How images become labels.

    Attributes:
        inferer: window, overlap and blending.
        fused: fused post-processing of the logits.
        networks: the networks.
        device: where they run.
        limits: what a run may take.
        mirror_axes: axes of the window, 0 to 2 along (D, H, W), over whose mirrorings the logits are averaged.
        uncertainty: whether a map of the entropy is made, too.
        temperatures: of the probabilities that are summed for each label; none for no sums.
    """

    inferer: SlidingWindowInferer
    fused: FusedPostprocessing
    networks: Networks
    device: torch.device
    limits: Limits
    mirror_axes: tuple[int, ...] = ()
    uncertainty: bool = False
    temperatures: tuple[float, ...] = ()

    def label(
        self,
        image: MetaTensor,
        scan: Grid | None,
        name: str,
        on_window: OnWindow | None = None,
        target: Grid | None = None,
    ) -> "StreamedLabels":
        """Run the networks on an image, and blend, restore and decide slab by slab.

        Args:
            image: (C, D, H, W), as the preprocessing made it, with the operations that MONAI recorded.
            scan: the scan's grid; may be None where nothing is interpolated in it.
            name: what errors call the scan.
            on_window: called with the windows that are done and all of them.
            target: another grid for the result, in the same mm; where `fused` interpolates.

        Raises:
            NotRecognisedError: the preprocessing or the network does something that only MONAI's own steps know.
            MemoryLimitError: it needs more memory than the limits allow.
        """
        network = tuple(image.shape[1:])
        placement, shape, grid = identity_placement(network), network, None
        if scan is not None and (self.fused.interpolated or self.uncertainty):
            placement, shape = place(image, scan), scan.shape
            if self.fused.interpolated:
                grid = target or scan
                placement, shape = placement.seen_from(scan, target) if target else placement, grid.shape
        outputs = _Outputs(self, placement, shape, network)
        start = time.perf_counter()
        backends, notes = self.networks.compiled(tuple(image.shape), self.inferer)
        voxels = image.as_tensor().to(self.device)
        ran = RunStats(
            {"loading": time.perf_counter() - start},
            backend=backends[0].name, precision=backends[0].precision, notes=notes,
        )  # fmt: skip
        limits = replace(self.limits, batch_size=backends[0].batch_size)
        predict = averaged(backends, self.mirror_axes)
        ran += StreamedRun(voxels, self.inferer, predict, outputs.make, limits, name).run(on_window)
        voxel_ml = float(abs(np.linalg.det(np.asarray(image.affine, dtype=np.float64)[:3, :3]))) / 1000
        return StreamedLabels(outputs.labels, grid, outputs.entropy, ran, outputs.collect_sums(voxel_ml))


@dataclass(frozen=True, eq=False)
class StreamedLabels:
    """What the engine makes of one image.

    Attributes:
        array: (1, I, J, K) labels, or (label, I, J, K) zeros and ones where labels may overlap.
        grid: where they lie; None for the grid of the image.
        entropy: (I, J, K) float32 in the scan's grid, where it was asked for.
        stats: times and memory.
        sums: (temperature, logit, 5), as `ConfidenceSums` has them, in mL and cm²; None where they were not asked for.
    """

    array: NDArray[np.unsignedinteger[Any]]
    grid: Grid | None
    entropy: NDArray[np.float32] | None
    stats: RunStats
    sums: NDArray[np.float64] | None = None


def as_prediction(labels: torch.Tensor, image: MetaTensor, grid: Grid | None) -> MetaTensor:
    """Return labels as MONAI's AsDiscreted gives them: float32, with the metadata of the image.

    Args:
        labels: (C, I, J, K).
        image: the image of the network.
        grid: where they lie; None for the grid of the image.
    """
    prediction = MetaTensor(labels.float()).copy_meta_from(image)
    if grid is not None:
        prediction.affine, prediction.applied_operations = torch.tensor(grid.affine), []
    return prediction


class _Outputs:
    """The arrays that the engine fills."""

    def __init__(self, engine: Engine, placement: Placement, scan: Shape, network: Shape) -> None:
        self.labels: NDArray[Any] = np.empty(0)
        self.entropy = np.zeros(scan, np.float32) if engine.uncertainty else None
        self._fused = fused = engine.fused
        self._temperatures = engine.temperatures
        self._sums: list[ConfidenceSums] = []
        self._placement = placement
        self._shape = scan if fused.interpolated else network
        self._where = placement if fused.interpolated else identity_placement(network)

    def make(self, logits: int) -> list[Output]:
        """Return the outputs for a number of logits."""
        overlapping = self._fused.threshold is not None
        dtype = np.uint8 if overlapping or logits <= 256 else np.uint16
        self.labels = np.zeros((logits if overlapping else 1, *self._shape), dtype)
        discretizer = self._fused.decide(logits)
        parts = [slice(index, index + 1) for index in range(logits)] if overlapping else [slice(None)]
        summed = (1 if overlapping else logits, self._fused.activated, overlapping, self._temperatures)
        self._sums = [ConfidenceSums(*summed) for _ in parts]
        outputs = [
            Output(values, self._where, discretizer, itemgetter(part), sums if self._temperatures else None)
            for values, part, sums in zip(self.labels, parts, self._sums, strict=True)
        ]
        if self.entropy is not None:
            entropy = sigmoid_entropy if overlapping else softmax_entropy
            chosen = partial(entropy, activated=self._fused.activated)
            outputs.append(Output(self.entropy, self._placement, Interpolated(), chosen))
        return outputs

    def collect_sums(self, voxel_ml: float) -> NDArray[np.float64] | None:
        """Return the sums (temperature, logit, 5) in mL and cm², None where they were not asked for."""
        if not self._temperatures:
            return None
        units = np.array([voxel_ml] * FACES + [voxel_ml ** (2 / 3)])
        sums: NDArray[np.float64] = np.concatenate([one.sums for one in self._sums], axis=1) * units
        return sums

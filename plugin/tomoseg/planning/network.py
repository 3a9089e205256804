"""Plan the network; estimate its parameters and the memory of a training step."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from tomoseg.bundle.configs import component

Triple = tuple[int, int, int]
Value = TypeVar("Value")

FLOAT32_BYTES = 4
BFLOAT16_BYTES = 2
# measured as the peak of four training steps with AdamW and bf16 autocast on a CPU, of DynUNets with 3 to 6 scores:
# each feature map is held so many times for the backward pass, and each score of each head so many times in the loss
FEATURE_COPIES = 13
SCORE_COPIES = 6
PARAMETER_COPIES = 5  # weight, gradient, two moments of AdamW, moving average
BASE_BYTES = 200 * 10**6  # allocated by the libraries for any size


@dataclass(frozen=True)
class Network:
    """A DynUNet.

    Attributes:
        out_channels: number of labels, background included.
        kernels, strides: of each level, along (D, H, W); the first stride is (1, 1, 1).
        filters: number of features of each level.
        residual: whether the encoder's blocks are residual.
        channels: number of the input's channels.
    """

    out_channels: int
    kernels: tuple[Triple, ...]
    strides: tuple[Triple, ...]
    filters: tuple[int, ...]
    residual: bool = False
    channels: int = 1

    @property
    def heads(self) -> int:
        """Number of scores maps beside the last one that the loss sees: at most 3, none of the two coarsest levels."""
        return min(3, len(self.strides) - 2)

    @property
    def divisor(self) -> Triple:
        """Factors that the window's edges must be multiples of."""
        return triple(math.prod(edges) for edges in zip(*self.strides, strict=True))

    def config(self, *, supervised: bool) -> dict[str, Any]:
        """Return it as a config has it.

        Args:
            supervised: with the heads for deep supervision, as in training.
        """
        config: dict[str, Any] = component(
            "DynUNet",
            spatial_dims=3,
            in_channels=self.channels,
            out_channels=self.out_channels,
            kernel_size=[list(kernel) for kernel in self.kernels],
            strides=[list(stride) for stride in self.strides],
            upsample_kernel_size=[list(stride) for stride in self.strides[1:]],
            filters=list(self.filters),
            norm_name=["INSTANCE", {"affine": True}],
        )
        if self.residual:
            config["res_block"] = True
        if supervised and self.heads:
            config |= {"deep_supervision": True, "deep_supr_num": self.heads}
        return config

    @property
    def parameters(self) -> int:
        """Number of weights without the heads for deep supervision, as MONAI builds it."""
        total = self.filters[0] * self.out_channels + self.out_channels
        before = self.channels
        for level, (features, kernel, stride) in enumerate(zip(self.filters, self.kernels, self.strides, strict=True)):
            volume = math.prod(kernel)
            total += (before + features) * features * volume + 4 * features
            if self.residual and (before != features or stride != (1, 1, 1)):
                total += before * features + 2 * features
            if level:
                total += features * before * math.prod(stride)  # up again
                total += 3 * before * before * volume + 4 * before
            before = features
        return total

    def training_bytes(self, patch: Triple, batch: int) -> int:
        """Return the memory of a training step, as it was measured on smaller and larger ones.

        Args:
            patch: voxels of the window.
            batch: windows at once.
        """
        voxels = float(math.prod(patch) * batch)
        out_channels = voxels * (1 + self.heads) * self.out_channels * FLOAT32_BYTES * SCORE_COPIES
        features = 0.0
        for stride, count in zip(self.strides, self.filters, strict=True):
            voxels /= math.prod(stride)
            features += voxels * count * BFLOAT16_BYTES * FEATURE_COPIES
        return round(BASE_BYTES + self.parameters * FLOAT32_BYTES * PARAMETER_COPIES + out_channels + features)


def shape_levels(patch: Triple, spacing_mm: tuple[float, float, float], edge: int) -> tuple[list[Triple], list[Triple]]:
    """Return kernels and strides, level by level, as nnU-Net does: halve the axes that are fine and long enough.

    Isensee et al., Nature Methods 18 (2021), supplementary note 2.

    Args:
        patch: voxels of the window, before it is rounded up to what the strides ask for.
        spacing_mm: of the network's grid.
        edge: no axis is halved to fewer voxels than these.
    """
    sizes, spacings = [float(size) for size in patch], list(spacing_mm)
    wide = [False] * 3
    kernels, strides = [], [(1, 1, 1)]
    while True:
        wide = [was or spacing / min(spacings) < 2 for was, spacing in zip(wide, spacings, strict=True)]
        kernels.append(triple(3 if is_wide else 1 for is_wide in wide))
        long = [axis for axis in range(3) if sizes[axis] >= 2 * edge]
        halved = [axis for axis in long if spacings[axis] < 2 * min(spacings[other] for other in long)]
        if not halved or len(strides) == MAX_LEVELS:
            return kernels, strides
        strides.append(triple(2 if axis in halved else 1 for axis in range(3)))
        for axis in halved:
            sizes[axis] /= 2
            spacings[axis] *= 2


MAX_LEVELS = 6


def triple(values: Iterable[Value]) -> tuple[Value, Value, Value]:
    """Return three values, one for each axis."""
    i, j, k = values
    return i, j, k

"""The weights of a PlainConvUNet, carried into a ResidualEncoderUNet."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

Weights = dict[str, torch.Tensor]
IMAGE_CHANNELS = 2  # the stem passes the image and its negative; LeakyReLU spoils one half of each
BLOCKS = 2  # in each stage but the first
SLOPE = 0.01  # of LeakyReLU below 0
SMALL = 0.05  # share of what has no place in a PlainConvUNet, and which labels survive
CONVOLUTION = re.compile(r"(en|de)coder\.stages\.(\d+)(?:\.0)?\.convs\.(\d)\.(.*)")


@dataclass(frozen=True)
class Residual:
    """Carries the weights of a PlainConvUNet of two convolutions a stage and kernels of 3×3×3."""

    features: list[int]

    def arguments(self) -> dict[str, list[int]]:
        """Return those of `ResidualEncoderUNet` that are not a PlainConvUNet's."""
        blocks = [1, *([BLOCKS] * (len(self.features) - 1))]
        return {"n_blocks_per_stage": blocks, "features_per_stage": self._wide()}

    def carry(self, plain: Weights) -> Weights:
        """Return the weights by nnU-Net's names; skips and further blocks have small seeded ones."""
        wide = {name: self._widened(name, tensor) for name, tensor in plain.items()}
        weights: Weights = {}
        for name, tensor in wide.items():
            found = CONVOLUTION.fullmatch(name)
            if found and found[1] == "en":
                weights[f"encoder.stages.{found[2]}.blocks.0.conv{int(found[3]) + 1}.{found[4]}"] = tensor
            else:
                weights[name] = tensor
        return weights | self._stem() | self._seeded()

    def _wide(self) -> list[int]:
        return [self.features[0] + IMAGE_CHANNELS, *self.features[1:]]

    def _widened(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor with zeros for the channels of the image, which the first stage's skip passes on."""
        narrow = self.features[0]
        if name == "encoder.stages.0.0.convs.0.conv.weight":
            image = torch.cat([tensor, -tensor], 1) / (1 + SLOPE)  # x is (leaky(x) - leaky(-x)) / (1 + slope)
            return pad(image, (*[0] * 6, narrow, 0, 0, IMAGE_CHANNELS))
        last = f"decoder.stages.{len(self.features) - 2}.convs."
        if name == f"{last}0.conv.weight":  # of upsampled and skipped channels
            halves = [pad(half, (*[0] * 6, 0, IMAGE_CHANNELS)) for half in tensor.chunk(2, 1)]
            return pad(torch.cat(halves, 1), (*[0] * 8, 0, IMAGE_CHANNELS))
        first = name.startswith(("encoder.stages.0.", last))
        outputs = first or name == f"decoder.transpconvs.{len(self.features) - 2}.bias"
        if tensor.ndim == 1:
            return pad(tensor, (0, IMAGE_CHANNELS)) if outputs else tensor
        if name == f"decoder.transpconvs.{len(self.features) - 2}.weight":
            return pad(tensor, (*[0] * 6, 0, IMAGE_CHANNELS))
        heads = f"decoder.seg_layers.{len(self.features) - 2}.weight"
        inputs = first or name in ("encoder.stages.1.0.convs.0.conv.weight", heads)
        return pad(tensor, (*[0] * 6, 0, IMAGE_CHANNELS * inputs, 0, IMAGE_CHANNELS * first))

    def _stem(self) -> Weights:
        """Return a stem that passes the image and its negative in the last channels."""
        kernel = torch.zeros(self._wide()[0], 1, 3, 3, 3)
        kernel[-2, 0, 1, 1, 1], kernel[-1, 0, 1, 1, 1] = 1.0, -1.0
        gain = torch.zeros(len(kernel))
        gain[-IMAGE_CHANNELS:] = 1
        stem = {"conv.weight": kernel, "conv.bias": gain * 0, "norm.weight": gain, "norm.bias": gain * 0}
        return {f"encoder.stem.convs.0.{name}": tensor for name, tensor in stem.items()}

    def _seeded(self) -> Weights:
        random = torch.Generator().manual_seed(26)
        weights: Weights = {}

        def add(at: str, outputs: int, inputs: int, size: int, gain: float, bias: bool = True) -> None:
            scale = (inputs * size**3) ** -0.5
            weights[f"{at}.conv.weight"] = torch.randn(outputs, inputs, size, size, size, generator=random) * scale
            if bias:
                weights[f"{at}.conv.bias"] = torch.zeros(outputs)
            weights[f"{at}.norm.weight"] = torch.full((outputs,), gain)
            weights[f"{at}.norm.bias"] = torch.zeros(outputs)

        wide = self._wide()
        for stage in range(1, len(wide)):
            at = f"encoder.stages.{stage}.blocks"
            add(f"{at}.0.skip.1", wide[stage], wide[stage - 1], 1, SMALL, bias=False)
            for block in range(1, BLOCKS):
                add(f"{at}.{block}.conv1", wide[stage], wide[stage], 3, 1.0)
                add(f"{at}.{block}.conv2", wide[stage], wide[stage], 3, SMALL)
        return weights

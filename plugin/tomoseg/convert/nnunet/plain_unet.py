"""The weights of nnU-Net's PlainConvUNet under the names of MONAI's DynUNet."""

import re
from collections.abc import Mapping, Sequence

import torch
from monai.networks.nets import DynUNet

from tomoseg.core.errors import BundleError

# said twice by nnU-Net, or of use in training only
SKIPPED = re.compile(r"\.all_modules\.|^decoder\.encoder\.")
BLOCK = re.compile(r"(encoder\.stages\.(\d+)\.0|decoder\.stages\.(\d+))\.convs\.(\d+)\.(conv|norm)\.(weight|bias)")
UPSAMPLING = re.compile(r"decoder\.transpconvs\.(\d+)\.(weight|bias)")
HEAD = re.compile(r"decoder\.seg_layers\.(\d+)\.(weight|bias)")


def load_plain_unet(
    network: DynUNet, weights: Mapping[str, torch.Tensor], stages: int, axes: Sequence[int], source: str
) -> None:
    """Load the weights of a PlainConvUNet into a DynUNet; all names and shapes must fit.

    Args:
        network: the DynUNet, with `trans_bias` and affine instance norms; on torch's device "meta", too.
        weights: by nnU-Net's names.
        stages: number of the encoder's stages, the bottleneck among them.
        axes: for each axis of the DynUNet's input that of nnU-Net's.
        source: what errors call the checkpoint.

    Raises:
        BundleError: a weight is missing, left over or of another shape.
    """
    expected = {k: v for k, v in network.state_dict().items() if not k.startswith("skip_layers.")}  # said twice
    found: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        renamed = _rename(name, stages)
        if renamed == "":
            continue
        if renamed is None or renamed not in expected:
            raise BundleError(f"{source}: got the weights {name!r}, which a PlainConvUNet of these plans does not have")
        found[renamed] = _embed(turn_kernel(tensor, axes), expected[renamed].shape, f"{source}: the weights {name!r}")
    missing = next((name for name in expected if name not in found), None)
    if missing is not None:
        raise BundleError(f"{source}: has no weights for {missing!r}; do its plans belong to it?")
    # left out: second names of the same tensors
    network.load_state_dict(found, strict=False, assign=True)


def turn_kernel(tensor: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    """Return a convolution's weights, (out, in, D, H, W), along other axes; those of one dimension unchanged.

    Args:
        tensor: the weights.
        axes: for each axis of the result that of the weights.
    """
    return tensor.permute(0, 1, *(axis + 2 for axis in axes)).contiguous() if tensor.ndim == 5 else tensor


def _rename(name: str, stages: int) -> str | None:
    """Return DynUNet's name of a weight, "" for one that it does not need, None for an unknown one."""
    if SKIPPED.search(name):
        return ""
    if block := BLOCK.fullmatch(name):
        _, down, up, index, kind, what = block.groups()
        if (kind, what) == ("conv", "bias"):
            return ""  # the instance norm that follows subtracts it
        layer = f"conv{int(index) + 1}.conv" if kind == "conv" else f"norm{int(index) + 1}"
        if down is None:
            return f"upsamples.{up}.conv_block.{layer}.{what}"
        level = int(down)
        where = "input_block" if level == 0 else "bottleneck" if level == stages - 1 else f"downsamples.{level - 1}"
        return f"{where}.{layer}.{what}"
    if upsampling := UPSAMPLING.fullmatch(name):
        return f"upsamples.{upsampling[1]}.transp_conv.conv.{upsampling[2]}"
    if head := HEAD.fullmatch(name):
        return f"output_block.conv.conv.{head[2]}" if int(head[1]) == stages - 2 else ""
    return None


def _embed(tensor: torch.Tensor, shape: Sequence[int], what: str) -> torch.Tensor:
    """Return a kernel in the middle of a larger one of zeros: DynUNet's decoder takes the kernels of a level deeper."""
    lacks = [whole - size for whole, size in zip(shape, tensor.shape, strict=False)]
    kernel = tensor.ndim == 5 and not any(lacks[:2])
    if len(shape) != tensor.ndim or any(lack and (not kernel or lack < 0 or lack % 2) for lack in lacks):
        raise BundleError(f"{what}: expected the shape {tuple(shape)}, got {tuple(tensor.shape)}")
    pad = [lack // 2 for lack in reversed(lacks) for _ in range(2)]
    return torch.nn.functional.pad(tensor, pad) if any(lacks) else tensor

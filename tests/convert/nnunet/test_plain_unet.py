"""A PlainConvUNet's weights under DynUNet's names."""

import pytest
import torch
from monai.networks.nets import DynUNet

from tomoseg.convert.nnunet.plain_unet import load_plain_unet
from tomoseg.core.errors import BundleError


def network(features: int = 4) -> DynUNet:
    return DynUNet(
        3, 1, 2, [[3] * 3] * 3, [[1] * 3, [2] * 3, [2] * 3], [[2] * 3] * 2,
        filters=[features, 8, 8], norm_name=("INSTANCE", {"affine": True}), trans_bias=True,
    ).eval()  # fmt: skip


def as_nnunet(source: DynUNet) -> dict[str, torch.Tensor]:
    """Return the weights under nnU-Net's names, some of them twice."""
    places = {
        "input_block": "encoder.stages.0.0",
        "downsamples.0": "encoder.stages.1.0",
        "bottleneck": "encoder.stages.2.0",
        "upsamples.0.conv_block": "decoder.stages.0",
        "upsamples.1.conv_block": "decoder.stages.1",
    }
    made = {}
    for name, tensor in source.state_dict().items():
        for ours, theirs in places.items():
            if name.startswith(ours + "."):
                layer = name.removeprefix(ours + ".").replace(".conv.", ".")
                kind, index, what = layer[:4], int(layer[4]) - 1, layer.rpartition(".")[2]
                made[f"{theirs}.convs.{index}.{kind}.{what}"] = tensor
                made[f"{theirs}.convs.{index}.all_modules.0.{what}"] = tensor
        if name.startswith("upsamples") and "transp_conv" in name:
            made[f"decoder.transpconvs.{name.split('.')[1]}.{name.rpartition('.')[2]}"] = tensor
        if name.startswith("output_block"):
            made[f"decoder.seg_layers.1.{name.rpartition('.')[2]}"] = tensor
    return made


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_same_logits_along_any_axes(axes: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    theirs, ours = network(), network()
    load_plain_unet(ours, as_nnunet(theirs), 3, axes, "fold_0")
    image = torch.rand(1, 1, 8, 12, 16)
    with torch.no_grad():
        turned = image.permute(0, 1, *(axis + 2 for axis in axes))
        expected = theirs(image).permute(0, 1, *(axis + 2 for axis in axes))
        assert torch.allclose(ours(turned), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.stages.0.0.convs.0.conv.weight": torch.ones(5, 1, 3, 3, 3)}, "expected the shape"),
        ({"mednext.block": torch.ones(1)}, "does not have"),
    ],
)
def test_weights_that_do_not_fit(change: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        load_plain_unet(network(), as_nnunet(network()) | change, 3, (0, 1, 2), "fold_0")


def test_missing_weights() -> None:
    weights = as_nnunet(network())
    del weights["decoder.transpconvs.0.bias"]
    with pytest.raises(BundleError, match="fold_0: has no weights"):
        load_plain_unet(network(), weights, 3, (0, 1, 2), "fold_0")

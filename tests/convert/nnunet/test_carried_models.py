"""nnU-Net models that carry the shipped weights: an import gives the same weights back."""

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from support.nnunet.models import BUNDLES, KINDS, carry, write_model
from tomoseg.convert.nnunet.checkpoint import read_checkpoint
from tomoseg.convert.nnunet.plain_unet import load_plain_unet


@pytest.mark.parametrize("name", ["isotropic", "transposed", "mask_norm", "folds", "old_plans"])
def test_weights_come_back(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    model = write_model(kind, tmp_path / f"Dataset901_{name}")
    assert len(list(model.glob("fold_*"))) == kind.folds
    checkpoint = read_checkpoint(model / "fold_0" / "checkpoint_final.pth")
    assert (checkpoint.trainer, checkpoint.mirror_axes) == ("nnUNetTrainer", kind.mirror or ())

    shipped = torch.load(BUNDLES / kind.bundle / "models" / "model.pt", map_location="cpu", weights_only=True)
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / kind.bundle / "configs" / "inference.json"))
    network = parser.get_parsed_content("network_def", instantiate=False).config | {"trans_bias": True}
    network = ConfigParser(network).get_parsed_content("")
    # axis a of nnU-Net's network runs along file axis 2 - transpose_forward[a]
    axes = [kind.transpose.index(2 - axis) for axis in range(3)]
    load_plain_unet(network, checkpoint.weights, len(network.filters), axes, "fold_0")
    loaded = network.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in shipped.items() if not key.startswith("skip_layers"))


def test_folds_differ_alike_in_all_names(tmp_path: Path) -> None:
    model = write_model(KINDS["folds"], tmp_path / "Dataset905_folds")
    first, second = (
        torch.load(model / f"fold_{fold}" / "checkpoint_final.pth", weights_only=False)["network_weights"]
        for fold in (0, 1)
    )
    same = "encoder.stages.1.0.convs.0"
    assert not torch.equal(first[f"{same}.conv.weight"], second[f"{same}.conv.weight"])
    assert torch.equal(second[f"{same}.conv.weight"], second[f"decoder.{same}.all_modules.0.weight"])


def test_thick_slices_have_flat_kernels() -> None:
    kind = KINDS["thick_slices"]
    shipped = torch.load(BUNDLES / kind.bundle / "models" / "model.pt", map_location="cpu", weights_only=True)
    weights = carry(shipped, kind)
    assert weights["encoder.stages.0.0.convs.0.conv.weight"].shape[2:] == (1, 3, 3)
    assert weights["decoder.transpconvs.2.weight"].shape[2:] == (1, 2, 2)

"""Initialise a network from a checkpoint: load the tensors that fit and report the others."""

from pathlib import Path

import torch
from monai.networks import copy_model_state

from tomoseg.core.errors import TrainingError
from tomoseg.inference.checkpoints import fit_names, read_weights


def load_matching(network: torch.nn.Module, checkpoint: Path) -> list[str]:
    """Copy the weights whose name and shape fit.

    Returns:
        How many came from the checkpoint, which of the network did not and why, and which of the checkpoint were not
        used; one line each.

    Raises:
        BundleError: the checkpoint cannot be read.
        TrainingError: no weight fits.
    """
    known = network.state_dict()
    weights = fit_names(read_weights(checkpoint, "model"), list(known))
    # some networks hold a module under several names; one of them is reported
    names = {name for name, _ in (*network.named_parameters(), *network.named_buffers())}
    own = {name: tensor for name, tensor in known.items() if name in names}
    fitting = {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
    if not fitting:
        raise TrainingError(
            f"{checkpoint}: none of its {len(weights)} weights fits this network of {len(own)}; is it of another one?"
        )
    _, taken, _ = copy_model_state(network, fitting)
    lines = [f"{len(taken)} of {len(own)} weights are from the checkpoint"]
    for name, tensor in own.items():
        if name not in weights:
            lines.append(f"{name}: not in the checkpoint; left as initialised")
        elif name not in fitting:
            shapes = f"of shape {tuple(tensor.shape)}, in the checkpoint {tuple(weights[name].shape)}"
            lines.append(f"{name}: {shapes}; left as initialised")
    return lines + [f"{name}: in the checkpoint only" for name in weights if name not in known]

"""Weights to begin with: those that fit are taken, the others are told by name."""

from dataclasses import dataclass
from pathlib import Path

import torch
from monai.networks import copy_model_state

from tomoseg.core.errors import TrainingError
from tomoseg.inference.config import read_weights


@dataclass(frozen=True)
class LoadedKeys:
    """Which weights of a network came from a checkpoint.

    Args:
        taken: names of those that did.
        left: why not, by the name of those that did not.
        unused: names in the checkpoint that the network does not have.
    """

    taken: tuple[str, ...]
    left: dict[str, str]
    unused: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """What to tell, one line each."""
        reported = [f"{len(self.taken)} of {len(self.taken) + len(self.left)} weights are from the checkpoint"]
        reported += [f"{name}: {reason}" for name, reason in self.left.items()]
        return reported + [f"{name}: in the checkpoint only" for name in self.unused]


def load_matching(network: torch.nn.Module, checkpoint: Path) -> LoadedKeys:
    """Copy the weights whose name and shape fit.

    Raises:
        BundleError: the checkpoint cannot be read.
        TrainingError: no weight fits.
    """
    weights = read_weights(checkpoint, "model")
    known = network.state_dict()
    # some networks hold a module under several names; one of them is told
    names = {name for name, _ in (*network.named_parameters(), *network.named_buffers())}
    own = {name: tensor for name, tensor in known.items() if name in names}
    fitting = {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
    if not fitting:
        raise TrainingError(
            f"{checkpoint}: none of its {len(weights)} weights fits this network of {len(own)}; is it of another one?"
        )
    _, taken, _ = copy_model_state(network, fitting)
    left = {
        name: f"of shape {tuple(tensor.shape)}, in the checkpoint {tuple(weights[name].shape)}; left as initialised"
        if name in weights
        else "not in the checkpoint; left as initialised"
        for name, tensor in own.items()
        if name not in fitting
    }
    return LoadedKeys(tuple(taken), left, tuple(name for name in weights if name not in known))

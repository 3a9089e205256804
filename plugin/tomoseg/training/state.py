"""All that a training has to remember, in one file that is whole or not there."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tomoseg.core.errors import TrainingError, errors_as
from tomoseg.core.files import atomic_file, require_regular
from tomoseg.inference.checkpoints import save_object

STATE_FORMAT = 1


@dataclass
class TrainingState:
    """What a training is after an epoch.

    Attributes:
        signature: what must be the same for it to go on: config, data, fold, epochs, seed.
        epoch: number of finished epochs.
        objects: states of the network, the optimiser and other stateful objects, by their names in the config.
        best: best value of the key metric so far, None before the first validation.
        best_epoch: when that was.
        history: a row for each epoch.
    """

    signature: dict[str, Any]
    epoch: int = 0
    objects: dict[str, Any] = field(default_factory=dict)
    best: float | None = None
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write it, atomically.

        Raises:
            OutputError: it cannot be written; the earlier file is kept.
        """
        with atomic_file(path) as temporary:
            save_object({"format": STATE_FORMAT, **vars(self)}, temporary)


def load_state(path: Path) -> TrainingState:
    """Read a state, without unpickling code.

    Raises:
        TrainingError: it is missing, damaged, or of another version.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: there is no training to go on with. Leave out --resume")
    what, remedy = f"{path}: cannot be read, so the training cannot continue", ". Start again with --overwrite"
    # torch.load: errors of pickle, zip, torch and the operating system
    with errors_as(TrainingError, what, Exception, remedy=remedy, root=True):
        content = torch.load(require_regular(path), map_location="cpu", weights_only=True)
        if content.pop("format") != STATE_FORMAT:
            raise ValueError("written by another version of tomoseg")
        return TrainingState(**content)


def collect_objects(parser: Any) -> dict[str, Any]:
    """Return everything at the top level of a config that was built and has a state, by its name.

    An object of several names is returned once: `network` is `network_def` on a device, or wrapped for several GPUs.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for name, item in sorted(parser.ref_resolver.resolved_content.items()):
        if "::" in name or not (hasattr(item, "state_dict") and hasattr(item, "load_state_dict")):
            continue
        inner = getattr(item, "module", item) if isinstance(item, torch.nn.parallel.DistributedDataParallel) else item
        if id(inner) not in seen and inner.state_dict():
            seen.add(id(inner))
            found[name] = inner
    return found

"""Chance that is the same whether a training was interrupted or not."""

from collections.abc import Sequence
from typing import Any

import torch
from ignite.utils import manual_seed
from monai.data import set_rnd

SEED_STRIDE = 1_000_003  # a prime, so that no epoch of one seed is the next epoch of the next
MAX_SEED = 2**32 - 1


def seed_epoch(loaders: Sequence[Any], seed: int, epoch: int) -> None:
    """Set every random generator to the state of an epoch, so that none has to be stored.

    Called before a loader is asked for its first batch: workers that it starts draw their seed from torch's.

    Args:
        loaders: MONAI's or torch's data loaders; each gets its own random state.
        seed: of the training.
        epoch: from 1 on.
    """
    number = (seed * SEED_STRIDE + epoch * 7919) % MAX_SEED
    manual_seed(number)
    for index, loader in enumerate(loaders):
        _seed_loader(loader, (number + index) % MAX_SEED, epoch)


def _seed_loader(loader: Any, number: int, epoch: int) -> None:
    sampler = getattr(loader, "sampler", None)
    if isinstance(generator := getattr(sampler, "generator", None), torch.Generator):
        generator.manual_seed(number)
    if set_epoch := getattr(sampler, "set_epoch", None):
        set_epoch(epoch)
    dataset = getattr(loader, "dataset", None)
    if dataset is not None:
        set_rnd(dataset, seed=number)

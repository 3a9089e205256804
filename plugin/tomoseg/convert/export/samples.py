"""Windows that a network is calibrated with and checked on."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import torch

from tomoseg.bundle.options import RunOptions
from tomoseg.convert.export.export_source import ExportSource
from tomoseg.core.errors import UsageError
from tomoseg.data.channels import further_files
from tomoseg.data.discovery import Scan, find_scans
from tomoseg.data.source import ScanSource
from tomoseg.inference.segmenter import Segmenter
from tomoseg.inference.sliding_window.fused_postprocessing import recognise_inferer
from tomoseg.inference.sliding_window.windows import pad_volume, place_windows

MAX_CALIBRATION_SCANS = 48  # are read at most, spread over all that there are
CALIBRATION_WINDOWS, CHECK_WINDOWS = 64, 24  # at most
CHECK_EVERY_SCANS = 4  # which scan is only checked on
RANDOM_WINDOWS = 2

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Samples:
    """Windows (1, C, D, H, W), float32, as the network gets them.

    Attributes:
        calibration: those that ranges of values are taken from.
        check: those that the exported network is compared on.
        scans: how many scans they are from; 0 for random ones.
        note: what must be known of them, if anything.
    """

    calibration: Sequence[torch.Tensor]
    check: Sequence[torch.Tensor]
    scans: int
    note: str = ""


def random_samples(source: ExportSource) -> Samples:
    """Return windows of noise, if there are no scans."""
    generator = torch.Generator().manual_seed(0)
    windows = [torch.randn((1, *source.window), generator=generator) for _ in range(RANDOM_WINDOWS)]
    windows[1] = 2 * windows[1] + 1  # so that a network that uses the mean takes more than one branch
    return Samples([], windows, 0, "checked on random windows. Give real scans with --calibration")


def real_samples(
    source: ExportSource, paths: Sequence[Path], calibrated: bool, on_step: Callable[[str], None]
) -> Samples:
    """Return windows of real scans, read and preprocessed as the bundle does it; always the same ones.

    Args:
        source: the network.
        paths: scans, and folders of them.
        calibrated: whether some are for the calibration; every fourth scan is then for the check alone.
        on_step: called with a text for each step.

    Raises:
        UsageError: there is no scan, or none with a window that holds more than one value.
        VolumeError, BundleError: a scan cannot be read or preprocessed.
    """
    found = _find(paths)
    other_channels = further_files([scan.path for scan in found], source.bundle.input_channels)
    scans = spread([scan for scan in found if scan.path in other_channels], MAX_CALIBRATION_SCANS)
    segmenter = Segmenter(
        source.bundle, RunOptions(device="cpu", backend="torch", checkpoints=(str(source.checkpoint),))
    )
    order = random.Random(0)
    windows: list[list[torch.Tensor]] = []
    share = -(-(CALIBRATION_WINDOWS + CHECK_WINDOWS) // len(scans))
    for scan in scans:
        on_step(f"reading {scan.path}")
        prepared = segmenter.prepare(ScanSource((scan.path, *other_channels[scan.path]), scan.series))
        windows.append(_cut(source, prepared.image.as_tensor().float(), share, order))
    if not any(windows):
        raise UsageError(f"{paths[0]}: expected scans with something in them, got {len(scans)} of one value each")
    if not calibrated:
        return Samples([], spread(list(chain(*windows)), CHECK_WINDOWS), len(scans))
    kept_apart = range(CHECK_EVERY_SCANS - 1, len(scans), CHECK_EVERY_SCANS) or range(len(scans) - 1, len(scans))
    check = list(chain(*(windows[index] for index in kept_apart)))
    calibration = list(chain(*(found for index, found in enumerate(windows) if index not in kept_apart)))
    note = ""
    if not check or not calibration:
        note = "calibrated and checked on the same scan. Give several with --calibration"
        everything = calibration + check
        calibration, check = everything[::2], everything[1::2] or everything
    return Samples(spread(calibration, CALIBRATION_WINDOWS), spread(check, CHECK_WINDOWS), len(scans), note)


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return so many of the items at most, evenly spread over all of them."""
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def _find(paths: Sequence[Path]) -> list[Scan]:
    scans: list[Scan] = []
    for path in paths:
        found = find_scans(path) if path.is_dir() else [Scan(path)]
        if not found:
            raise UsageError(f"{path}: contains no scans for calibration and comparison")
        scans += found
    return scans


def _cut(source: ExportSource, image: torch.Tensor, count: int, order: random.Random) -> list[torch.Tensor]:
    """Return at most so many windows of a preprocessed scan (C, D, H, W) that hold more than one value."""
    inferer = recognise_inferer(source.config.inferer)
    placed = place_windows(image.shape[1:], inferer)
    image = pad_volume(image, placed, inferer)
    corners = [corner for _, group in placed.groups for corner in group]
    order.shuffle(corners)
    found: list[torch.Tensor] = []
    for d, h, w in corners:
        size = placed.roi_size
        window = image[None, :, d : d + size[0], h : h + size[1], w : w + size[2]].clone()
        if window.amin() < window.amax():
            found.append(window)
        if len(found) == count:
            break
    return found

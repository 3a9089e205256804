"""A bundle's network, written for another runtime, checked, and only then kept."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.registry import find_bundle
from tomoseg.bundle.trust import changed_by_us
from tomoseg.convert.export.export_source import ExportSource, load_origin
from tomoseg.convert.export.formats import FORMATS, Format
from tomoseg.convert.export.options import MAX_DICE_LOSS
from tomoseg.convert.export.parity import Parity, compare
from tomoseg.convert.export.samples import Samples, random_samples, real_samples
from tomoseg.core.errors import BackendError, OutputError, TomosegError, UsageError, one_line, root_cause
from tomoseg.core.files import staging_folder
from tomoseg.core.quiet import suppress_warnings


@dataclass(frozen=True)
class Export:
    """Exported files, and their agreement with PyTorch in fp32.

    Attributes:
        format: one of `FORMATS`.
        files: written files, the main one first.
        size_bytes: of all of them.
        scans: how many scans the windows are from; 0 for random windows.
        calibration_windows, check_windows: how many windows it was calibrated with, and compared on.
        largest_difference: of a logit, relative to the range of the logits.
        dice: of each label with that of fp32, over all voxels of the windows together.
        mean_dice: the mean over the labels; None if the windows hold none.
        notes: deviations from the usual way.
    """

    format: str
    files: tuple[str, ...]
    size_bytes: int
    scans: int
    calibration_windows: int
    check_windows: int
    largest_difference: float
    dice: dict[str, float]
    mean_dice: float | None
    notes: tuple[str, ...]


def export(
    bundle: Bundle | str | os.PathLike[str],
    format_name: str,
    output: str | os.PathLike[str] | None = None,
    *,
    calibration: Sequence[str | os.PathLike[str]] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    max_dice_loss: float = MAX_DICE_LOSS,
    overwrite: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> Export:
    """Write a bundle's network in another format, after comparing it with PyTorch on the same windows.

    Args:
        bundle: a bundle, its name or its folder.
        format_name: one of `FormatName`.
        output: the file to write; None for beside the weights.
        calibration: real scans, and folders of them, to calibrate int8 with and to check on; none for random windows.
        checkpoint: weights in place of the bundle's own.
        max_dice_loss: what the mean Dice of int8 labels with those of fp32 may be below 1, in [0, 1].
        overwrite: replace files that are there already.
        on_step: called with a text for each step.

    Returns:
        The files that were written (sizes in bytes), and how near they come to PyTorch in fp32.

    Raises:
        UsageError: the options do not fit each other or the bundle.
        MissingPackageError: a package for the format is not installed.
        BundleError, VolumeError: bundle or scans cannot be used.
        BackendError: the network cannot be exported, or comes out different.
        OutputError: it cannot be written, or it exists already.

    Example:
        >>> import tomoseg
        >>> made = tomoseg.export("hippocampus", "torchscript", "network.ts")
        >>> made.files, made.largest_difference < 1e-3
        (('network.ts',), True)
    """
    if format_name not in FORMATS:
        raise UsageError(f"format: expected {', '.join(FORMATS)}, got {format_name!r}")
    if not 0 <= max_dice_loss <= 1:
        raise UsageError(f"max_dice_loss: expected a share from 0 to 1, got {max_dice_loss}")
    export_format = FORMATS[format_name]
    export_format.require()
    if export_format.calibrated and not calibration:
        raise UsageError(f"format: {export_format.name} needs real scans. Give some with --calibration FOLDER")
    scans = [Path(path) for path in calibration]
    source = load_origin(find_bundle(bundle), None if checkpoint is None else Path(checkpoint))
    target = Path(output) if output else source.checkpoint.with_name(f"{source.checkpoint.stem}{export_format.ending}")
    if target.suffix != export_format.suffix:
        raise UsageError(f"{target}: expected a name that ends in {export_format.suffix}, for {export_format.name}")
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists. Pass --overwrite to replace it")
    samples = real_samples(source, scans, export_format.calibrated, on_step) if scans else random_samples(source)
    with staging_folder(target.parent) as folder:
        file = folder / target.name
        parity, note = _write(source, export_format, file, target, samples, max_dice_loss, on_step)
        # the file to name comes last: where it is, all is there
        written = sorted(folder.iterdir(), key=lambda path: path == file)
        size_bytes = sum(path.stat().st_size for path in written)
        there = [target.with_name(path.name) for path in written if target.with_name(path.name).exists()]
        if there and not overwrite:
            raise OutputError(f"{there[0]}: exists. Pass --overwrite to replace it")
        with changed_by_us(source.bundle):
            for path in written:
                path.replace(target.with_name(path.name))
    return Export(
        format=export_format.name, size_bytes=size_bytes,
        files=tuple(str(target.with_name(path.name)) for path in reversed(written)),
        scans=samples.scans, calibration_windows=len(samples.calibration), check_windows=len(samples.check),
        largest_difference=parity.largest_difference, dice=parity.dice, mean_dice=parity.mean_dice,
        notes=tuple(filter(None, (samples.note, note))),
    )  # fmt: skip


def _write(
    source: ExportSource,
    export_format: Format,
    file: Path,
    target: Path,
    samples: Samples,
    max_dice_loss: float,
    on_step: Callable[[str], None],
) -> tuple[Parity, str]:
    """Write a file in one way after the other until one is near enough to torch; return how near, and what way."""
    reason = ""
    try:
        with suppress_warnings():
            on_step(f"exporting to {export_format.name}")
            for note in export_format.write(source, file, samples):
                on_step(f"checking {export_format.name}")
                parity = compare(source, export_format.read(file), samples.check)
                reason = export_format.reason(parity, max_dice_loss)
                if not reason:
                    return parity, note
    except (TomosegError, OSError):
        raise
    except Exception as error:  # exporters, runtimes and the bundle's network each have their own errors
        what = f"{target}: bundle {source.bundle.name} cannot be exported to {export_format.name}"
        raise BackendError(f"{what}: {one_line(root_cause(error))}") from error
    raise BackendError(f"{target}: not kept, for {reason}")

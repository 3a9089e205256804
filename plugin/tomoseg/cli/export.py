"""`tomoseg export`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, get_args

import typer

from tomoseg.cli.arguments import JsonOption, TrustOption
from tomoseg.cli.terminal import status
from tomoseg.cli.trust import find_trusted
from tomoseg.convert.export.options import MAX_DICE_LOSS, FormatName
from tomoseg.core.json_files import format_json
from tomoseg.core.notes import print_json, print_line


def export(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE")],
    format_name: Annotated[str, typer.Option("--format", metavar="|".join(get_args(FormatName)))],
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE")] = None,
    calibration: Annotated[list[Path] | None, typer.Option(metavar="SCANS")] = None,
    checkpoint: Annotated[Path | None, typer.Option(metavar="WEIGHTS")] = None,
    max_dice_loss: Annotated[float, typer.Option(metavar="LOSS")] = MAX_DICE_LOSS,
    overwrite: Annotated[bool, typer.Option("--overwrite")] = False,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Export a bundle's network to another runtime, and compare it with PyTorch.

    Args:
        bundle: a registered name, its beginning, or a folder.
        format_name: format of the file.
        output: file name; by default beside the weights.
        calibration: scans, or a folder of them, for the calibration of int8 and for the comparison.
        checkpoint: weights in place of the bundle's.
        max_dice_loss: largest difference between 1 and the mean Dice of int8 with fp32.
        overwrite: replace existing files.

    Examples:
        tomoseg export hippocampus --format onnx -o network.onnx
        tomoseg export hippocampus --format openvino-int8 --calibration scans/
    """
    chosen = find_trusted(bundle, trust)
    with status("loading the network") as show:
        from tomoseg.convert.export.export import export as write_network

        made = write_network(
            chosen, format_name, output, calibration=calibration or (), checkpoint=checkpoint,
            max_dice_loss=max_dice_loss, overwrite=overwrite, on_step=show,
        )  # fmt: skip
    if as_json:
        print_json(format_json(asdict(made)))
        return
    print_line(f"{chosen.name} -> {', '.join(made.files)}: {made.size_bytes / 1e6:.1f} MB")
    where = f"windows of {made.scans} scans" if made.scans else "random windows"
    print_line(f"compared with PyTorch in fp32 on {made.check_windows} {where}:")
    print_line(f"  scores differ by at most {made.largest_difference:.2g} of their range")
    if made.mean_dice is not None:
        each = ", ".join(f"{name} {dice:.5f}" for name, dice in made.dice.items())
        print_line(f"  mean Dice of the labels {made.mean_dice:.5f}, a loss of {1 - made.mean_dice:.5f} ({each})")
    for note in made.notes:
        print_line(f"note: {note}")

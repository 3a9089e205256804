"""`tomoseg export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from tomoseg.bundle.registry import find_bundle
from tomoseg.core.json_files import format_json


def export(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A registered name, its beginning, or a folder.")],
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="onnx|torchscript|torch-export|openvino|openvino-int8|tensorrt",
            help="What is written.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file; beside the weights if left out.")
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            help="Real scans, or a folder of them, to calibrate int8 with and to check on.", show_default=False
        ),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights in place of the bundle's.")] = None,
    max_dice_loss: Annotated[
        float, typer.Option(metavar="LOSS", help="How far below 1 the mean Dice of int8 with fp32 may be.")
    ] = 0.01,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a bundle's network for another runtime, checked against PyTorch before it is kept."""
    chosen = find_bundle(bundle)
    with Console(stderr=True).status("loading the network") as status:  # nothing is shown where nobody looks
        from tomoseg.convert.export.export import export_bundle

        made = export_bundle(
            chosen,
            format_name,
            output,
            calibration=calibration or (),
            checkpoint=checkpoint,
            max_dice_loss=max_dice_loss,
            overwrite=overwrite,
            on_step=lambda step: status.update(escape(step)),
        )
    if as_json:
        print(format_json(asdict(made)), end="")
        return
    print(f"{chosen.name} -> {', '.join(made.files)}: {made.size_bytes / 1e6:.1f} MB")
    where = f"windows of {made.scans} scans" if made.scans else "random windows"
    print(f"compared with PyTorch in fp32 on {made.check_windows} {where}:")
    print(f"  scores differ by at most {made.largest_difference:.2g} of their range")
    if made.mean_dice is not None:
        each = ", ".join(f"{name} {dice:.5f}" for name, dice in made.dice.items())
        print(f"  mean Dice of the labels {made.mean_dice:.5f}, a loss of {1 - made.mean_dice:.5f} ({each})")
    for remark in made.remarks:
        print(f"note: {remark}")

"""`tomoseg import`."""

from pathlib import Path
from typing import Annotated

import typer

from tomoseg.bundle.registry import as_folder
from tomoseg.cli.arguments import QuietOption
from tomoseg.cli.terminal import status
from tomoseg.core.errors import UsageError
from tomoseg.core.notes import print_note


def import_model(
    model: Annotated[Path, typer.Argument(metavar="MODEL")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="BUNDLE")],
    configuration: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    folds: Annotated[str | None, typer.Option(metavar="0,1|all")] = None,
    checkpoint: Annotated[str, typer.Option(metavar="final|best")] = "final",
    axcodes: Annotated[str | None, typer.Option(metavar="RAS|file")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite")] = False,
    quiet: QuietOption = False,
) -> None:
    """Make a MONAI bundle of a trained nnU-Net 2; nnU-Net is not needed, and nothing of the model is run.

    Args:
        model: a results folder TRAINER__PLANS__CONFIGURATION, a folder of several, or a ZIP of these.
        output: the bundle's folder.
        configuration: which of several, such as 3d_fullres.
        folds: some of the folds; by default all that there are.
        checkpoint: which one of each fold.
        axcodes: orientation that the network expects; by default RAS where nnU-Net turns scans to it, else that of each
            file.
        overwrite: replace a bundle that is there.
    """
    from tomoseg.convert.nnunet.bundle import import_nnunet

    if checkpoint not in ("final", "best"):
        raise UsageError(f"--checkpoint: expected final or best, got {checkpoint!r}")
    with status("reading the model") as show:
        made = import_nnunet(
            model, output, configuration=configuration, folds=None if folds is None else folds.split(","),
            checkpoint=checkpoint, axcodes=axcodes, overwrite=overwrite, on_step=show,
        )  # fmt: skip
    if quiet:
        return
    several = f"{len(made.folds)} folds" if len(made.folds) > 1 else f"fold {made.folds[0]}"
    print(f"{made.title} ({several}, {made.network.rpartition('.')[2]}) -> {output}")
    print(f"labels: {', '.join(f'{value} {name}' for value, name in made.labels.items())}")
    for note in made.notes:
        print_note(note)
    print(f"next: tomoseg segment SCAN -o OUT -b {as_folder(output)}")

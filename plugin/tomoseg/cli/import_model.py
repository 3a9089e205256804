"""`tomoseg import`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tomoseg.bundle.registry import as_folder, find_bundle
from tomoseg.cli.arguments import QuietOption
from tomoseg.cli.terminal import status
from tomoseg.core.errors import UsageError
from tomoseg.core.notes import print_line, print_note


def import_model(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...")],
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
        models: a results folder TRAINER__PLANS__CONFIGURATION, a folder of several, or a ZIP of these. Several models
            make one set; where two of them claim a voxel, the later one has it.
        output: the bundle's folder.
        configuration: which of several, such as 3d_fullres.
        folds: some of the folds; by default all that there are.
        checkpoint: which one of each fold.
        axcodes: orientation that the network expects; by default RAS where nnU-Net turns scans to it, else that of each
            file.
        overwrite: replace a bundle that is there.

    Examples:
        tomoseg import nnUNetTrainer__nnUNetPlans__3d_fullres/ -o liver
        tomoseg import model.zip -o liver --folds all --checkpoint best
    """
    from tomoseg.convert.nnunet.bundle import import_nnunet
    from tomoseg.convert.nnunet.bundle_set import import_set

    if checkpoint not in ("final", "best"):
        raise UsageError(f"--checkpoint: expected final or best, got {checkpoint!r}")
    options: dict[str, Any] = {
        "configuration": configuration, "folds": None if folds is None else folds.split(","),
        "checkpoint": checkpoint, "axcodes": axcodes, "overwrite": overwrite,
    }  # fmt: skip
    with status("reading the model") as show:
        if len(models) > 1:
            made = import_set(models, output, on_step=show, **options)
        else:
            made = [import_nnunet(models[0], output, on_step=show, **options)]
    if quiet:
        return
    for one in made:
        several = f"{len(one.folds)} folds" if len(one.folds) > 1 else f"fold {one.folds[0]}"
        print_line(f"{one.title} ({several}, {one.network.rpartition('.')[2]}) -> {output}")
    labels = find_bundle(output).labels
    print_line(f"labels: {', '.join(f'{value} {name}' for value, name in labels.items())}")
    for note in dict.fromkeys(note for one in made for note in one.notes):
        print_note(note)
    print_line(f"next: tomoseg segment SCAN -o OUT -b {as_folder(output)}")

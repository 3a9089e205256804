"""`tomoseg plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tomoseg.bundle.options import parse_size
from tomoseg.cli.arguments import QuietOption
from tomoseg.cli.terminal import console
from tomoseg.core.errors import DatasetError
from tomoseg.core.notes import print_error

GPU = "nvidia-smi"  # what tells of a GPU without torch, which takes seconds to import


def plan(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="Scans and label maps, of the Decathlon, nnU-Net or your own.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="BUNDLE", help="The bundle's folder.", show_default=False)
    ],
    memory: Annotated[str, typer.Option(metavar="SIZE", help="What a training may take, on a GPU of its own.")] = "8GB",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="What it will be trained on.")] = "auto",
    preset: Annotated[str, typer.Option(metavar="small|medium|large", help="How large the network may be.")] = "medium",
    modality: Annotated[
        str | None, typer.Option(metavar="CT|MR", help="What the scans are; by default as the dataset says.")
    ] = None,
    loss: Annotated[
        str, typer.Option(metavar="dice-ce|dice-focal|tversky", help="The last two for labels that are rare or small.")
    ] = "dice-ce",
    sampling: Annotated[
        str,
        typer.Option(
            metavar="uniform|inverse-volume|NAME=RATIO,…",
            help="How often windows lie on each label: all alike, smaller ones more often, or as you say.",
        ),
    ] = "uniform",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the configs and docs of a bundle that is there.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Make a MONAI bundle that can be trained on a labelled dataset, each choice with its reason."""
    from tomoseg.planning.bundle_writer import plan_bundle
    from tomoseg.planning.imbalance import Imbalance
    from tomoseg.planning.presets import Budget

    budget = Budget(parse_size(memory), _device(device), preset)
    try:
        with Console(stderr=True).status("looking at the dataset") as status:
            made = plan_bundle(
                dataset, output, budget, modality, imbalance=Imbalance(loss, sampling),
                overwrite=overwrite, on_scan=lambda path: status.update(escape(str(path))),
            )  # fmt: skip
    except DatasetError as error:
        for problem in error.problems:
            print_error(problem)
        raise typer.Exit(1) from None
    if quiet:
        return
    table = Table(
        "choice", "", "why", title=escape(f"{output} ({made.modality}, {budget.device})"), title_justify="left"
    )
    for choice, value in made.choices().items():
        shown = ", ".join(f"{key} {entry}" for key, entry in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(choice.replace("_", " "), escape(shown), escape(made.reasons[choice]))
    console().print(table)
    if made.guessed:
        print(f"taken for {made.modality} by the values of its first scan; if it is not, plan it with --modality")
    print(f"next: tomoseg train {output} --data {dataset}")


def _device(asked: str) -> str:
    from shutil import which

    if asked == "auto":
        return "cuda" if which(GPU) else "cpu"
    return asked

"""`tomoseg train`."""

from pathlib import Path
from typing import Annotated

import typer

from tomoseg.bundle.registry import as_folder
from tomoseg.cli.arguments import QuietOption, TrustOption
from tomoseg.cli.terminal import status
from tomoseg.cli.trust import find_trusted
from tomoseg.core.errors import DatasetError, MemoryLimitError, OutputError, TrainingError, one_line
from tomoseg.core.notes import print_error, print_line, print_note, print_warning
from tomoseg.training.options import TrainingOptions


def train(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE")],
    data: Annotated[Path, typer.Option(metavar="DATASET")],
    *,
    unlabelled: Annotated[Path | None, typer.Option(metavar="FOLDER")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FOLDER")] = None,
    trust: TrustOption = False,
    options: TrainingOptions,
    quiet: QuietOption = False,
) -> None:
    """Train a bundle on a labelled dataset, and save the weights in it.

    Args:
        bundle: a registered name, its beginning, or a folder written as ./name, such as `tomoseg plan` made.
        data: labelled dataset.
        unlabelled: folder of unlabelled scans like those of the dataset, to learn from, too.
        output: folder for checkpoints; by default `train` in the bundle.

    Examples:
        tomoseg train ./mine --data dataset/
        tomoseg train ./mine --data dataset/ --fold all --epochs 100
    """
    chosen = find_trusted(bundle, trust)

    from tomoseg.training.cross_validation import CrossValidation
    from tomoseg.training.run import train as train_bundle
    from tomoseg.training.workflow import is_first

    quiet = quiet or not is_first()  # of the processes that torchrun starts, one talks
    try:
        with status("looking at the dataset") as show:
            made = train_bundle(
                chosen, data, options, unlabelled=unlabelled, output=output, quiet=quiet, on_step=show,
                on_note=None if quiet else print_note, on_warning=None if quiet else print_warning,
            )  # fmt: skip
    except DatasetError as error:
        for problem in error.errors:
            print_error(problem)
        raise typer.Exit(1) from None
    except (TrainingError, OutputError, MemoryLimitError) as error:
        print_error(one_line(error, 2000))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print_error(f"interrupted; checkpoints are in {output or chosen.root / 'train'}. Continue with --resume")
        raise SystemExit(130) from None  # past the handler of batches
    if quiet:
        return
    if isinstance(made, CrossValidation):
        for line in made.lines:
            print_line(line)
        return
    metrics = [f"{name.removeprefix('val_').replace('_', ' ')} {value:.4f}" for name, value in made.metrics.items()]
    print_line(", ".join([f"{made.weights}: {made.epochs} epochs", *metrics]))
    if made.installed:
        print_line(f"next: tomoseg segment SCAN -o OUT -b {as_folder(chosen.root)}")
    else:
        kept = chosen.root / "models" / "model.pt"
        print_line(f"{kept}: kept as it was; replace it with --overwrite, or use --checkpoint")

"""`tomoseg train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from tomoseg.bundle.registry import find_bundle
from tomoseg.cli.arguments import QuietOption, ThreadsOption
from tomoseg.core.errors import DatasetError, MemoryLimitError, OutputError, TrainingError, one_line
from tomoseg.core.notes import print_error, print_note, print_warning


def train(
    bundle: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="What `tomoseg plan` made, or any bundle's folder or name.")
    ],
    data: Annotated[Path, typer.Option(metavar="DATASET", help="The labelled dataset.", show_default=False)],
    unlabelled: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Scans like those of the dataset, without label map, to learn from, too.",
            show_default=False,
        ),
    ] = None,
    fold: Annotated[
        str | None,
        typer.Option(
            metavar="K|all|none|validation",
            help="Hold out fold K; all folds, one after the other; no case; or those that the dataset keeps for it. "
            "By default what the bundle says.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="How many; by default what the bundle says.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run was stopped.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew, and replace the bundle's weights in the end.")
    ] = False,
    init: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT", help="Weights to begin with.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]", help="Where it is trained.")] = "auto",
    seed: Annotated[int | None, typer.Option(help="Of weights, order and augmentation.")] = None,
    negatives: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="NIfTI scans that hold none of the labels, for one window in eight.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="For checkpoints; `train` in the bundle if not given.", show_default=False),
    ] = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a bundle on a labelled dataset, and put the weights into it."""
    chosen = find_bundle(bundle)
    folder = output or chosen.root / "train"

    from tomoseg.training.cross_validation import cross_validate
    from tomoseg.training.options import EVERY_FOLD, TrainingOptions, parse_fold
    from tomoseg.training.training import check_data, check_negatives, install
    from tomoseg.training.training import train as train_bundle
    from tomoseg.training.unlabelled import check_unlabelled
    from tomoseg.training.workflow import default_fold, is_first

    which = parse_fold(fold)
    which = default_fold(chosen) if which is None else which
    options = TrainingOptions(
        fold=None if which == EVERY_FOLD else which,
        epochs=epochs,
        seed=seed,
        device=device,
        init=None if init is None else str(init),
        resume=resume,
        overwrite=overwrite,
        negatives=None if negatives is None else str(negatives),
        threads=threads,
    )
    quiet = quiet or not is_first()  # of the processes that torchrun starts, one talks
    try:
        with Console(stderr=True).status("looking at the dataset") as status:

            def tell(text: str) -> None:
                status.update(escape(text))

            dataset = check_data(data, tell)
            without = () if negatives is None else check_negatives(negatives, chosen, tell)
            others = None if unlabelled is None else check_unlabelled(unlabelled, dataset, tell)
        if others is not None:
            options = replace(options, unlabelled=others.scans)
            for line in () if quiet else others.left_out:
                print_warning(f"{line}; left out")
            if not quiet:
                print_note(f"{unlabelled}: {others.summary}")
        if which == EVERY_FOLD:
            result = cross_validate(chosen, dataset, options, folder, quiet, without)
            if not quiet:
                print("\n".join(result.lines))
            return
        name = f"fold_{which}" if isinstance(which, int) else which or "all_cases"
        trained = train_bundle(chosen, dataset, options, folder / name, quiet, without)
        if not is_first():
            return
        installed = install(trained.weights, chosen, overwrite)
    except DatasetError as error:
        for problem in error.problems:
            print_error(problem)
        raise typer.Exit(1) from None
    except (TrainingError, OutputError, MemoryLimitError) as error:
        print_error(one_line(error, 2000))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print_error(f"interrupted; what was trained is in {folder}, go on with --resume")
        raise SystemExit(130) from None  # past what is told of scans
    if quiet:
        return
    metrics = [f"{name.removeprefix('val_').replace('_', ' ')} {value:.4f}" for name, value in trained.metrics.items()]
    print(", ".join([f"{trained.weights}: {trained.epochs} epochs", *metrics]))
    if installed:
        print(f"next: tomoseg segment SCAN -o OUT -b {chosen.root}")
    else:
        print(
            f"{chosen.root / 'models' / 'model.pt'}: kept as it was; replace it with --overwrite, or use --checkpoint"
        )

"""`tomoseg calibrate`."""

from pathlib import Path
from typing import Annotated

import typer

from tomoseg.cli.arguments import QuietOption, TrustOption
from tomoseg.cli.terminal import status
from tomoseg.cli.trust import find_trusted
from tomoseg.core.errors import DatasetError
from tomoseg.core.notes import print_error, print_line


def calibrate(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE")],
    data: Annotated[Path, typer.Argument(metavar="DATASET")],
    *,
    fold_weights: Annotated[list[Path] | None, typer.Option(metavar="WEIGHTS")] = None,
    copies: Annotated[int, typer.Option(metavar="N", min=0)] = 6,
    table: Annotated[Path | None, typer.Option(metavar="CSV")] = None,
    threads: Annotated[int | None, typer.Option(metavar="N")] = None,
    trust: TrustOption = False,
    quiet: QuietOption = False,
) -> None:
    """Calibrate the expected Dice of a bundle's labels on labelled cases that it was not trained on.

    Args:
        bundle: a registered name, its beginning, or a folder written as ./name.
        data: labelled dataset that the network has not seen; of one with a validation part, that part.
        fold_weights: weights of the first fold of the dataset's splits.json, then of the next; each segments the cases
            that its fold held out.
        copies: number of corrupted copies of each case.
        table: file for all results; cases in it do not run again.
        threads: threads of the process.

    Examples:
        tomoseg calibrate ./mine held_out/
        tomoseg calibrate ./mine dataset/ --fold-weights fold_0.pt --fold-weights fold_1.pt
    """
    chosen = find_trusted(bundle, trust)

    from tomoseg.bundle.confidence import CONFIDENCE
    from tomoseg.training.calibration import calibrate as calibrate_bundle
    from tomoseg.training.calibration import describe_confidence

    try:
        with status("looking at the dataset") as show:
            found = calibrate_bundle(
                chosen, data, fold_weights=fold_weights or (), copies=copies, table=table, threads=threads, on_case=show
            )
    except DatasetError as error:
        for problem in error.errors:
            print_error(problem)
        raise typer.Exit(1) from None
    if not quiet:
        for line in describe_confidence(found):
            print_line(line)
        print_line(f"{chosen.root / CONFIDENCE}: written; temperature {found.temperature:g}")

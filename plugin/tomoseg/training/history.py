"""What happened in each epoch, as a table, as a picture, and for TensorBoard."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tomoseg.core.files import atomic_file
from tomoseg.core.tables import write_csv

Row = dict[str, float]  # "epoch", "loss", "learning_rate", "seconds", and the metrics of a validation


def save_table(path: Path, rows: Sequence[Row]) -> None:
    """Write a CSV with a row for each epoch, atomically; metrics are empty where there was no validation.

    Raises:
        OutputError: it cannot be written.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(path, columns, ([row.get(name, "") for name in columns] for row in rows))


def draw_curve(path: Path, rows: Sequence[Row]) -> None:
    """Draw loss and metrics over the epochs, and write a PNG, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    losses = figure.subplots()
    losses.plot([row["epoch"] for row in rows], [row["loss"] for row in rows], color="grey", label="loss")
    losses.set_xlabel("epoch")
    losses.set_ylabel("loss")
    metrics = losses.twinx()
    for name in sorted({name for row in rows for name in row if name.startswith("val_")}):
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        metrics.plot(*zip(*points, strict=True), marker=".", label=name.removeprefix("val_").replace("_", " "))
    metrics.set_ylabel("Dice on the cases held out")
    metrics.set_ylim(None, 1)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


class Board:
    """Writes rows as TensorBoard reads them; does nothing where it is not installed.

    Args:
        folder: of the event files.
        epoch: rows after it, of an earlier run, are dropped.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        self._writer: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=epoch + 1)

    def add(self, row: Row) -> None:
        """Add the values of an epoch."""
        if self._writer is None:
            return
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, int(row["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        """Write the remaining entries and close the log."""
        if self._writer is not None:
            self._writer.close()

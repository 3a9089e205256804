"""The table of a training for TensorBoard, where it is installed."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tomoseg.training.history import Row


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

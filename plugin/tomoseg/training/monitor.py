"""What a training shows while it runs: a bar with the time left, or a line for each epoch."""

import time

from rich.progress import TaskProgressColumn

from tomoseg.core.progress import ProgressBars
from tomoseg.training.history import Row

SPEED_PERIOD_S = 1800  # the time left is that of the last half hour


class TrainingMonitor(ProgressBars):
    """Draws on standard error while it is open: a bar on a terminal, else a line for each epoch.

    Args:
        title: text before the bar.
        hidden: draw nothing at all.
    """

    def __init__(self, title: str, hidden: bool = False) -> None:
        super().__init__(TaskProgressColumn(), hidden=hidden, recent_s=SPEED_PERIOD_S)
        self._title = title
        self._task = self._bars.add_task(title)
        self._start = 0.0
        self._first = 0

    def begin(self, epoch: int, epochs: int, steps: int) -> None:
        """Show a training at the end of `epoch` of `epochs` epochs of so many steps."""
        self._start, self._first = time.monotonic(), epoch
        self._bars.update(self._task, total=epochs * steps, completed=epoch * steps)

    def step(self, done: int, epoch: int, epochs: int) -> None:
        """Show the number of finished steps, the last of them in `epoch`."""
        self._bars.update(self._task, completed=done, description=f"{self._title}, epoch {epoch} of {epochs}")
        self.tell_each_minute(f"{self._title}: epoch {epoch} of {epochs}, step {done}")

    def finish_epoch(self, row: Row, epochs: int) -> None:
        """Print what an epoch gave: each of them where there is no bar, else those with a validation."""
        metrics = [f"{name.removeprefix('val_').replace('_', ' ')} {row[name]:.4f}" for name in row if "val_" in name]
        if self._console.is_terminal and not metrics:
            return
        epoch = int(row["epoch"])
        left = (time.monotonic() - self._start) / (epoch - self._first) * (epochs - epoch) / 60
        shown = ", ".join([f"loss {row['loss']:.4f}", *metrics, f"{row['seconds']:.1f} s", f"{left:.0f} min left"])
        self.tell(f"{self._title}: epoch {epoch} of {epochs}: {shown}")

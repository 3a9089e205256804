"""What goes on around a bundle's trainer: chance by epoch, checkpoints, the table, the curve, the bar."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from tomoseg.core.errors import OutputError, TrainingError, one_line
from tomoseg.inference.checkpoints import save_weights
from tomoseg.training.history import Board, Row, draw_curve, save_table
from tomoseg.training.monitor import TrainingMonitor
from tomoseg.training.randomness import seed_epoch
from tomoseg.training.state import TrainingState, collect_objects
from tomoseg.training.workflow import TrainingWorkflow, is_first

SAVE_EVERY_S = 30.0  # a kill loses this much at most, and never more than an epoch

STATE, LAST, BEST = "state.pt", "model.pt", "model_best.pt"
TABLE, CURVE = "history.csv", "curve.png"


class TrainingSession:
    """Handlers around one trainer; they change nothing that it computes.

    Args:
        workflow: built.
        folder: where everything is written.
        state: where it begins or goes on.
        monitor: what shows how far it is.
        advice: how a user lowers the learning rate.
    """

    def __init__(
        self,
        workflow: TrainingWorkflow,
        folder: Path,
        state: TrainingState,
        monitor: TrainingMonitor,
        advice: str = "lower learning_rate in train.json",
    ) -> None:
        self._workflow = workflow
        self._folder = folder
        self.state = state
        self._monitor = monitor
        self._advice = advice
        self._board = Board(folder / "tensorboard", state.epoch) if is_first() else None
        self._loss: torch.Tensor | None = None
        self._metrics: dict[str, float] = {}
        self._start = self._saved = time.monotonic()
        self._restore()
        trainer = workflow.trainer
        trainer.add_event_handler(Events.STARTED, self._begin)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._begin_epoch)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._finish_epoch)  # after those of the config
        if workflow.evaluator is not None:
            workflow.evaluator.add_event_handler(Events.EPOCH_COMPLETED, self._collect_metrics)

    def save(self) -> None:
        """Write the current state.

        Raises:
            OutputError: it cannot be written.
        """
        self.state.objects = {name: item.state_dict() for name, item in self._objects().items()}
        self.state.save(self._folder / STATE)
        self._saved = time.monotonic()

    def close(self) -> None:
        """Close the log."""
        if self._board is not None:
            self._board.close()

    def _objects(self) -> dict[str, Any]:
        scaler = getattr(self._workflow.trainer, "scaler", None)  # made by the trainer, for fp16
        return collect_objects(self._workflow.parser) | ({} if scaler is None else {"scaler": scaler})

    def _restore(self) -> None:
        if not self.state.epoch:
            return
        objects = self._objects()
        kept = {name for name in self.state.objects if name != "scaler"}
        if kept != set(objects):
            raise TrainingError(
                f"{self._folder / STATE}: expected the states of {', '.join(sorted(objects))}, "
                f"got those of {', '.join(sorted(kept))}. Start again with --overwrite"
            )
        for name, item in objects.items():
            item.load_state_dict(self.state.objects[name])
        trainer = self._workflow.trainer
        trainer.state.epoch = self.state.epoch
        trainer.state.iteration = self.state.epoch * trainer.state.epoch_length

    def _begin(self, engine: Engine) -> None:
        if "scaler" in self.state.objects and getattr(engine, "scaler", None) is not None:
            engine.scaler.load_state_dict(self.state.objects["scaler"])
        self.state.objects = {}  # they are in the trainer now
        self._monitor.begin(self.state.epoch, self._workflow.epochs, int(engine.state.epoch_length or 1))

    def _begin_epoch(self, engine: Engine) -> None:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        seed_epoch(self._workflow.loaders, self._workflow.seed + rank, engine.state.epoch)
        self._loss, self._metrics, self._start = None, {}, time.monotonic()

    def _step(self, engine: Engine) -> None:
        output: Any = engine.state.output
        loss = (output[0] if isinstance(output, list) else output)["loss"].detach()
        self._loss = loss if self._loss is None else self._loss + loss  # not read yet: a GPU would have to wait
        self._monitor.step(engine.state.iteration, engine.state.epoch, self._workflow.epochs)

    def _collect_metrics(self, engine: Engine) -> None:
        self._metrics = {name: float(value) for name, value in engine.state.metrics.items() if _is_number(value)}

    def _finish_epoch(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        mean = math.nan if self._loss is None else float(self._loss) / int(engine.state.epoch_length or 1)
        if not math.isfinite(mean):
            raise TrainingError(
                f"{self._folder}: the loss is {mean} in epoch {epoch}; the last saved state is kept. Look for cases "
                f"with wrong values, or {self._advice}"
            )
        rate = float(self._workflow.trainer.optimizer.param_groups[0]["lr"])
        row: Row = {"epoch": epoch, "loss": mean, "learning_rate": rate, **self._metrics}
        row["seconds"] = round(time.monotonic() - self._start, 3)
        self.state.epoch = epoch
        self.state.history.append(row)
        if not is_first():
            return
        if self._board is not None:
            self._board.add(row)
        try:
            self._write(epoch == self._workflow.epochs)
        except OutputError as error:
            if epoch == self._workflow.epochs:
                raise
            # the earlier file is complete; the next epoch tries again
            self._monitor.tell(f"warning: {one_line(error)}; the training continues. Make room")
        self._monitor.finish_epoch(row, self._workflow.epochs)

    def _write(self, is_last: bool) -> None:
        key = getattr(getattr(self._workflow.evaluator, "state", None), "key_metric_name", None)
        value = self._metrics.get(key) if key else None
        if value is not None and (self.state.best is None or value > self.state.best):
            save_weights(self._folder / BEST, self._workflow.weights())
            self.state.best, self.state.best_epoch = value, self.state.epoch
        if is_last or self._metrics or time.monotonic() - self._saved >= SAVE_EVERY_S:
            save_weights(self._folder / LAST, self._workflow.weights())  # usable, even if the training ends here
            self.save()
            save_table(self._folder / TABLE, self.state.history)
            if self._metrics or is_last:
                draw_curve(self._folder / CURVE, self.state.history)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, torch.Tensor) and value.numel() == 1)

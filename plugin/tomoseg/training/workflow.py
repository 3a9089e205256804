"""A bundle's own training, as MONAI's `ConfigWorkflow` builds and runs it."""

import hashlib
import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from traceback import format_exception
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from tomoseg.bundle.configs import find_config
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.planned import TrainEntry
from tomoseg.bundle.trust import require_trusted
from tomoseg.core.errors import (
    BundleError,
    DatasetError,
    MemoryLimitError,
    TomosegError,
    UsageError,
    errors_as,
    one_line,
    root_cause,
    some,
)
from tomoseg.core.files import open_regular, real_path, require_regular, sha256
from tomoseg.core.memory import is_out_of_memory
from tomoseg.core.threads import usable_threads
from tomoseg.data.datasets import Dataset, Pair
from tomoseg.data.inspection.training_checks import find_copies, missing_labels, trainable_labels
from tomoseg.data.splits import LISTS
from tomoseg.inference.config import literal
from tomoseg.inference.device import choose_device
from tomoseg.inference.parser import Scripts
from tomoseg.training.options import TrainingOptions
from tomoseg.training.resources import plan_cache
from tomoseg.training.unlabelled import hash_scans

# of a full /dev/shm, by torch itself or by Python's queues between processes
SHARED_MEMORY = re.compile(r"shared memory|multiprocessing(?s:.*)No space left on device")
REPLACED_HANDLERS = ("CheckpointSaver", "StatsHandler")  # handlers of ours do what these do, atomically and for people


def world_size() -> int:
    """Return the number of processes that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Return whether this is the process that writes."""
    return int(os.environ.get("RANK", "0")) == 0


class TrainingWorkflow:
    """The training of one bundle on one dataset.

    Args:
        bundle: the bundle.
        data: the dataset's folder.
        options: how it is trained.
        cases: number of cases to be kept in memory, negatives included.

    Attributes:
        fold, epochs, seed: what holds, the bundle's own included.
        folds: number of folds that the config knows; 0 where it has none.
        held_out: the cases that are held out, in the order of the config.
        loaders: what batches come from.

    Raises:
        UntrustedBundleError: the bundle's code may not run.
        BundleError: the config is missing, or cannot be built.
        DatasetError: its folds do not fit the cases.
        UsageError: an option is none that the config has.
    """

    def __init__(self, bundle: Bundle, data: Path, options: TrainingOptions, cases: int) -> None:
        require_trusted(bundle)
        self._bundle, self._data = bundle, data
        self._scripts = Scripts(bundle.root)
        self._files = _config_files(bundle, bool(options.unlabelled))
        self._unlabelled = options.unlabelled
        self._init = None if options.init is None else Path(options.init)
        self._validated = True
        self.fold: int | str | None = None
        self.folds, self.held_out = 0, list[Pair]()
        raw = _read(self._files)
        self.device = choose_device(options.device)
        overrides: dict[str, Any] = {
            "bundle_root": literal(str(bundle.root.absolute())),
            "dataset_dir": literal(str(data.absolute())),
        }
        if world_size() == 1:  # with torchrun each process takes a GPU of its own
            overrides["device"] = f"$torch.device('{self.device}')"
        for name in (TrainEntry.FOLD, TrainEntry.EPOCHS, TrainEntry.SEED):
            if (asked := getattr(options, name)) is not None:
                if name not in raw:
                    raise UsageError(f"--{name}: {self._files[0]} has no entry '{name}' to set")
                overrides[name] = asked
        if options.negatives is not None:
            name = TrainEntry.NEGATIVES_FOLDER
            if name not in raw:
                raise UsageError(
                    f"--negatives: {self._files[0]} has no entry '{name}'; `tomoseg plan` writes it, but not "
                    "with --synthetic 1, which trains on no scan"
                )
            overrides[name] = literal(str(Path(options.negatives).absolute()))
        for part in ("train", "validate"):
            for index, handler in enumerate(raw.get(part, {}).get("handlers", [])):
                if _is_handler(handler, REPLACED_HANDLERS):
                    overrides[f"{part}::handlers::{index}::_disabled_"] = True
        if str(raw.get("validate", {}).get("evaluator", {}).get("_target_", "")).endswith("SupervisedEvaluator"):
            overrides["validate::evaluator::_target_"] = "tomoseg.StreamingEvaluator"
            overrides["validate::evaluator::backend"] = "torch"  # to compile new weights each time takes longer
        if options.unlabelled:
            files = ", ".join(literal(str(path.absolute()))[1:] for path in options.unlabelled)
            overrides[TrainEntry.UNLABELLED_FILES] = f"$[{files}]"
        if TrainEntry.NUM_WORKERS in raw:  # the config may count cores that are not this process's
            own = "0" if options.threads == 1 else str(raw[TrainEntry.NUM_WORKERS]).removeprefix("$")
            overrides[TrainEntry.NUM_WORKERS] = f"$min({own}, {options.threads or usable_threads()})"
        overrides |= plan_cache(bundle, raw, cases, self.device, len(options.unlabelled))
        with self._reported("cannot be built"), TemporaryDirectory(prefix="tomoseg-") as folder:
            nothing = Path(folder) / "metadata.json"  # a training has no use for it, and its texts may be expressions
            nothing.write_text("{}", encoding="utf-8")
            self._workflow = ConfigWorkflow(
                config_file=[str(path) for path in self._files],
                meta_file=str(nothing),
                logging_file=False,
                workflow_type="train",
                **overrides,
            )
        self.parser: ConfigParser = self._workflow.parser

    def use_cases(self, cases: Sequence[tuple[Path, Path]]) -> None:
        """Train on these pairs of image and label map, each once in an epoch, in place of a dataset; validate nothing.

        Call it before `build`.

        Raises:
            BundleError: the config lacks an entry that every MONAI bundle has.
        """
        parser = self.parser
        for key in ("train::dataset::data", "train::handlers"):
            if key not in parser:
                raise BundleError(f"{self._files[0]}: expected the entry {key!r}: every MONAI bundle has it")
        for entry in (TrainEntry.LISTED, TrainEntry.LISTED_VALIDATION):  # of a planned bundle: its dataset is not there
            if entry in parser:
                parser[entry] = []
        if TrainEntry.STEPS in parser:  # of an epoch of a planned bundle, for any number of cases
            parser[TrainEntry.STEPS] = math.ceil(len(cases) / int(parser.get_parsed_content(TrainEntry.BATCH_SIZE)))
        parser["train::dataset::data"] = _datalist(cases)
        kept = [one for one in parser["train::handlers"] if not _is_handler(one, ("ValidationHandler",))]
        parser["train::handlers"] = kept
        self._validated = False

    def build(self, dataset: Dataset | None = None, every_fold: bool = False) -> list[str]:
        """Run the config's `initialize` and build the trainer, which reads all cases that are cached.

        Args:
            dataset: whose cases the config splits; None after `use_cases`.
            every_fold: another fold may train on what this one lacks.

        Returns:
            Warnings on the split.
        """
        with self._reported("cannot be built"):
            if dataset:
                self._renumber(dataset)
            self._workflow.initialize()
            warnings = self._split(dataset, every_fold) if dataset else []
            self.trainer = self.parser.get_parsed_content("train::trainer")
            # those that batches come from: the trainer's, or both of those that it has as one
            parts = [f"{part}::dataloader" for part in ("train", "unlabelled")] if self._unlabelled else []
            self.loaders = [*map(self.parser.get_parsed_content, parts)] or [self.trainer.data_loader]
            self.evaluator = self._entry("validate::evaluator") if self._validated else None
            self.seed = int(self._entry(TrainEntry.SEED, 0))
            self.epochs = int(self.trainer.state.max_epochs)
            for engine in filter(None, (self.trainer, self.evaluator)):
                # each error that they log they raise, too; ignite's logger is that of all engines of the class
                engine.logger = logging.Logger(engine.logger.name, logging.CRITICAL)
        return warnings

    def _renumber(self, dataset: Dataset) -> None:
        """Map a dataset's labels to those of the dataset that the bundle was planned for."""
        values = dataset.renumbered.values
        names = {dataset.renumbered.value(value): name for value, name in trainable_labels(dataset).items()}
        if TrainEntry.ANNOTATED_NAMES in self.parser:  # those by which dataset.json lists drawn labels
            self.parser[TrainEntry.ANNOTATED_NAMES] = [literal(name) for value, name in sorted(names.items()) if value]
        if values:
            steps: list[dict[str, Any]] = list(self.parser["train::deterministic_transforms"])
            place = [step["_target_"] for step in steps].index("Orientationd")  # after reading and rounding
            step = {"_target_": "MapLabelValued", "keys": "@label_key", "orig_labels": list(values)}
            steps.insert(place, step | {"target_labels": list(values.values())})
            self.parser["train::deterministic_transforms"] = steps

    def _split(self, dataset: Dataset, every_fold: bool) -> list[str]:
        """Take over the split of the config; return warnings on it, and refuse what cannot be learnt from."""
        folds: list[dict[str, list[str]]] = self._entry(TrainEntry.FOLDS, [])
        self.fold, self.folds = self._entry(TrainEntry.FOLD), len(folds)
        if folds and isinstance(self.fold, int) and self.fold >= len(folds):
            raise UsageError(f"fold: expected 0 to {len(folds) - 1}, got {self.fold}")
        ids: list[str] = self._entry(TrainEntry.CASE_IDS, [])
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise DatasetError(f"{self._data}: several cases are called {twice[0]!r}. Rename them")
        named = [{name for part in LISTS for name in fold[part]} for fold in folds]
        unknown = sorted(set[str]().union(*named) - set(ids))
        if ids and unknown:
            raise DatasetError(
                f"{self._data}: the folds name {unknown[0]!r} ({len(unknown)} such), and no case is called so; "
                f"cases are called {ids[0]!r} and the like: correct splits.json, or remove it"
            )
        unused = sorted(set(ids) - named[self.fold]) if named and isinstance(self.fold, int) else []
        warnings = [f"fold {self.fold} has in neither list, and does not use: {some(unused)}"] if unused else []
        if TrainEntry.TRAIN_CASES not in self.parser:  # no bundle of `tomoseg plan`
            return warnings
        pairs = {real_path(pair.label): pair for pair in dataset.pairs}
        trained, self.held_out = (
            [pairs[path] for case in self._entry(name, []) if (path := real_path(Path(str(case["label"])))) in pairs]
            for name in (TrainEntry.TRAIN_CASES, TrainEntry.VALIDATION_CASES)
        )
        if not trained:
            raise DatasetError(f"{self._data}: no case is left to train on with --fold {self.fold}; hold fewer out")
        missing = [
            f"{self._data}: no case that fold {self.fold} trains on has the label {label}. Change the folds"
            for label in missing_labels(dataset, trained)
        ]
        if missing and not every_fold:
            raise DatasetError(*missing)
        others = sorted({*self.held_out} - {*trained}, key=lambda pair: pair.image)
        return warnings + missing + find_copies(trained, others)

    def _entry(self, name: str, default: Any = None) -> Any:
        """Return what the config has under a name, the default where it has nothing."""
        return self.parser.get_parsed_content(name) if name in self.parser else default

    @property
    def network(self) -> torch.nn.Module:
        """The network that is trained, without what shares it between GPUs."""
        network: torch.nn.Module = self.trainer.network
        inner = getattr(network, "module", network)
        return inner if isinstance(network, torch.nn.parallel.DistributedDataParallel) else network

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the weights that inference loads: what the config calls so, else the network's."""
        weights: dict[str, torch.Tensor] = (self._entry(TrainEntry.WEIGHTS) or self.network).state_dict()
        return weights

    def signature(self, data_sha256: str) -> dict[str, Any]:
        """Return what must be the same for a training to go on."""
        return {
            "unlabelled": hash_scans(self._unlabelled) if self._unlabelled else None,
            "init": sha256(self._init) if self._init and self._init.is_file() else None,
            "config": hashlib.sha256(b"".join(open_regular(path).read() for path in self._files)).hexdigest(),
            "data": data_sha256,
            "fold": self.fold,
            "epochs": self.epochs,
            "seed": self.seed,
            "processes": world_size(),
        }

    def run(self) -> None:
        """Run the config's `run`."""
        with self._reported("failed"):
            self._workflow.run()

    def close(self) -> None:
        """Run the config's `finalize`."""
        with self._reported("failed"):
            self._workflow.finalize()

    @contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        """Turn any error of a config into one line."""
        try:
            with self._scripts.importable():
                yield
        except Exception as error:  # a config calls MONAI, ignite, torch and other code that it names
            cause = root_cause(error)
            if isinstance(cause, TomosegError):
                raise cause from None
            if is_out_of_memory(cause):
                raise MemoryLimitError(
                    f"{self._bundle.root}: training ran out of memory on {self.device}; "
                    "plan the bundle with less --memory"
                ) from error
            reason = one_line(cause)
            if SHARED_MEMORY.search("".join(format_exception(cause))):
                raise MemoryLimitError(
                    f"{self._bundle.root}: the processes that prepare batches ran out of shared memory, /dev/shm. "
                    "Enlarge it (docker run --shm-size 8g), or prepare batches in one process with --threads 1"
                ) from error
            if not reason.startswith(kind := type(cause).__name__):
                reason = f"{kind}: {reason}"
            raise BundleError(f"{self._files[0]}: {what}: {reason}") from error


def default_fold(bundle: Bundle) -> int | str | None:
    """Return which cases a bundle's own train.json holds out; None where it does not say.

    Raises:
        BundleError: it is missing or cannot be read.
    """
    fold = read_train_config(bundle).get(TrainEntry.FOLD)
    return fold if isinstance(fold, int | str) else None


def read_train_config(bundle: Bundle) -> dict[str, Any]:
    """Return the contents of a bundle's own train.json.

    Raises:
        BundleError: it is missing or cannot be read.
    """
    return _read(_config_files(bundle))


def _config_files(bundle: Bundle, with_unlabelled: bool = False) -> list[Path]:
    names = ["train", *(["semi_supervised"] if with_unlabelled else [])]
    names += [] if world_size() == 1 else ["multi_gpu_train"]
    found = []
    for name in names:
        path = find_config(bundle.root, name)
        if path is None:
            hint = ". Plan it again with --overwrite" if name == "semi_supervised" else ""
            raise BundleError(
                f"{bundle.root}: expected configs/{name}.json, got none; so it cannot be trained this way{hint}"
            )
        found.append(path)
    return found


def _datalist(pairs: Sequence[tuple[Path, Path]]) -> list[dict[str, str]]:
    return [{"image": literal(str(image)), "label": literal(str(label))} for image, label in pairs]


def _is_handler(entry: Any, names: tuple[str, ...]) -> bool:
    """Return whether an entry of a config is a handler of one of these classes."""
    return isinstance(entry, dict) and str(entry.get("_target_", "")).endswith(names)


def _read(paths: list[Path]) -> dict[str, Any]:
    with errors_as(BundleError, f"{paths[0]}: cannot be read", Exception):  # of json, of yaml or of MONAI
        content: dict[str, Any] = ConfigParser.load_config_files([str(require_regular(path)) for path in paths])
    return content

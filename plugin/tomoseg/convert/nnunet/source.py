"""Where a trained nnU-Net lies: a results folder, the folder of its dataset, or a ZIP of one."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tomoseg.core.archives import path_of, unpack
from tomoseg.core.errors import BundleError, UsageError

PLANS, DATASET, POSTPROCESSING = "plans.json", "dataset.json", "postprocessing.json"
FOLD = re.compile(r"fold_(\d+|all)")
# of a ZIP, nothing else is unpacked
WANTED = re.compile(r"(plans|dataset|postprocessing)\.json|checkpoint_\w+\.pth")
MAX_DEPTH = 3  # folders in a ZIP above the results folder


@dataclass(frozen=True)
class TrainedModel:
    """A results folder of nnU-Net: TRAINER__PLANS__CONFIGURATION.

    Attributes:
        folder: with plans.json, dataset.json and the folds.
        title: what errors and the bundle's record call it.
    """

    folder: Path
    title: str

    @property
    def configuration(self) -> str:
        """Name of the configuration, such as "3d_fullres"."""
        return self.folder.name.rpartition("__")[2]

    def checkpoints(self, folds: Sequence[str] | None, kind: str) -> list[Path]:
        """Return the checkpoints of the folds; by default of all that there are, or of the one trained on all data.

        Raises:
            UsageError: there is no such fold.
        """
        found = {match[1]: path for path in self.folder.iterdir() if (match := FOLD.fullmatch(path.name))}
        chosen = folds or sorted((name for name in found if name != "all"), key=int) or list(found)
        if missing := [name for name in chosen if name not in found]:
            listed = ", ".join(sorted(found)) or "none"
            raise UsageError(f"--folds: {self.title} has no fold {missing[0]!r}. Choose some of its folds: {listed}")
        if not chosen:
            raise BundleError(f"{self.title}: has no folder fold_0 to fold_4. Give a results folder that was trained")
        return [found[name] / f"checkpoint_{kind}.pth" for name in dict.fromkeys(chosen)]

    def postprocessing(self) -> Path | None:
        """Return the record of the post-processing that nnU-Net found to help, None where there is none."""
        places = (self.folder, *sorted(self.folder.glob("crossval_results_folds_*")))
        return next((place / POSTPROCESSING for place in places if (place / POSTPROCESSING).is_file()), None)


@contextmanager
def open_model(path: Path, configuration: str | None) -> Iterator[TrainedModel]:
    """Yield the results folder that a path means; a ZIP is unpacked for the time of the `with`.

    Args:
        path: a results folder, a folder or a ZIP of several.
        configuration: which one of several, by the end of its name.

    Raises:
        UsageError: there is none, or there are several and none is chosen.
        BundleError: the ZIP is damaged, or would write outside of its folder.
    """
    if path.is_dir():
        yield _choose(path, path, configuration)
        return
    if not path.is_file():
        raise UsageError(f"{path}: no such file or folder. Give a results folder of nnU-Net, or a ZIP of one")
    with TemporaryDirectory(prefix="tomoseg-") as folder:
        unpack(path, Path(folder), lambda _, member: bool(WANTED.fullmatch(path_of(member).name)))
        yield _choose(path, Path(folder), configuration)


def _choose(path: Path, folder: Path, configuration: str | None) -> TrainedModel:
    levels = ["/".join(["*"] * depth + [PLANS]) for depth in range(MAX_DEPTH + 1)]
    # the cross-validation's folder has a copy of the plans
    found = [
        plans.parent
        for level in levels
        for plans in sorted(folder.glob(level))
        if plans.parent.name.count("__") == 2 or plans.parent == folder
    ]
    if (folder / PLANS).is_file():
        found = [folder.resolve()]
    chosen = [one for one in found if configuration is None or one.name.endswith(f"__{configuration}")]
    if not chosen and found:
        names = ", ".join(one.name.rpartition("__")[2] for one in found)
        raise UsageError(f"--configuration: {path} has no {configuration!r}. Choose one of {names}")
    if not chosen:
        raise UsageError(f"{path}: has no {PLANS}. Give a folder TRAINER__PLANS__CONFIGURATION of nnU-Net's results")
    if len(chosen) > 1:
        names = ", ".join(one.name for one in chosen)
        raise UsageError(f"{path}: has several models: {names}. Choose one with --configuration, or give its folder")
    return TrainedModel(chosen[0], str(path) if chosen[0] == folder.resolve() else f"{path}: {chosen[0].name}")

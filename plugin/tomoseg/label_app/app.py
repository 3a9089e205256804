"""The app that MONAI Label runs: tomoseg's bundles as its models."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.async_tasks.utils import processes

from tomoseg.core.errors import BundleError, UsageError, VolumeError, errors_name
from tomoseg.core.version import __version__
from tomoseg.label_app.activelearning.acquisition_scores import KINDS
from tomoseg.label_app.activelearning.scoring import ImageScoring
from tomoseg.label_app.activelearning.strategies import make_strategies
from tomoseg.label_app.clicks.correction import BACKGROUND
from tomoseg.label_app.datastore.studies import open_studies
from tomoseg.label_app.folder import LabelApp, load_bundles
from tomoseg.label_app.infers.batch_task import IsolatedBatch
from tomoseg.label_app.infers.inference import SegmentationTask
from tomoseg.label_app.infers.interaction import SUFFIX, ClickTask
from tomoseg.label_app.model import ServedModel
from tomoseg.label_app.request import flag
from tomoseg.label_app.trainers.train_task import BundleTraining

LOGGER = logging.getLogger(__name__)
ALL = "all"
IMAGES_SCORED_AT_ONCE = 50  # images; an archive may have thousands
DESCRIPTION = "Segmentation of CT and MRI with MONAI bundles, for research only"


class TomosegApp(MONAILabelApp):  # type: ignore[misc]
    """MONAI Label's app over tomoseg's bundles.

    Args:
        app_dir: a folder that `LabelApp.write` made.
        studies: a folder of scans, or the URL of a DICOMweb archive.
        conf: of MONAI Label's command line; `models` names bundles, by commas, in place of the folder's.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        self.folder = LabelApp(Path(app_dir))
        named = [name.strip() for name in conf.get("models", "").split(",") if name.strip()]
        bundles = load_bundles(named) if named else self.folder.bundles
        self._wants_scores = False
        self._drawn_by: dict[str, str] = {}  # weights by image, since the start
        self.models = {bundle.name: ServedModel(bundle, self.folder) for bundle in bundles}
        super().__init__(
            app_dir, studies, dict(conf), name="tomoseg", description=DESCRIPTION, version=__version__,
            # clients show these; 3D Slicer places clicks for each of them, so background is one, too
            labels=[*dict.fromkeys(name for model in self.models.values() for name in model.labels.ids), BACKGROUND],
        )  # fmt: skip

    def init_datastore(self) -> Datastore:
        """Open the folder of studies or the DICOMweb archive."""
        accept, follow = self._asked("accept_unknown"), self._asked("follow_links")
        return open_studies(self.studies, self.folder, list(self.models.values()), accept, follow)

    def _asked(self, option: str) -> bool:
        return bool(self.conf.get(option) == "true")

    def init_infers(self) -> dict[str, InferTask]:
        """Return a segmentation for each bundle, and corrections by clicks where labels do not overlap."""
        found = {name: SegmentationTask(model) for name, model in self.models.items()}
        clicked = (model for model in self.models.values() if not model.labels.overlapping)
        return found | {f"{model.name}{SUFFIX}": ClickTask(model) for model in clicked}

    def init_trainers(self) -> dict[str, TrainTask]:
        """Return a training for each bundle that has a training config."""
        found: dict[str, TrainTask] = {}
        for model in self.models.values():
            with suppress(BundleError):  # it has no training config
                if not model.labels.overlapping:  # they would need an annotation for each
                    found[model.name] = BundleTraining(model, self._asked("always"))
        return found

    def init_strategies(self) -> dict[str, Strategy]:
        """Return the choices of the next image."""
        return make_strategies(self.models)

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """Return the acquisition scores by name."""
        return {
            "entropy": ImageScoring("How undecided the scores of an image are", ["entropy"], self.models),
            "expected_dice": ImageScoring(
                "Dice that the labels of an image likely have", ["expected_dice"], self.models
            ),
            "features": ImageScoring("What the network makes of an image", ["features"], self.models),
            ALL: ImageScoring("All of these", list(KINDS), self.models),
        }

    def async_scoring(self, method: str | None, params: Mapping[str, Any] | None = None) -> Any:
        """Start scoring in the background; of its own accord MONAI Label asks for it with every image it hands out."""
        if method is None and self._server_mode and (not self._wants_scores or processes("scoring")):
            return {}
        return super().async_scoring(method or ALL, params or {ALL: {"limit": IMAGES_SCORED_AT_ONCE}})

    def next_sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the image to be labelled next, {} if all are."""
        self._wants_scores = request.get("strategy") in ("uncertain", "diverse")
        return dict(super().next_sample(request))

    def init_batch_infer(self) -> IsolatedBatch:
        """Return the batch that segments all images."""
        return IsolatedBatch()

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Segment an image of the studies, an uploaded file or a session; the form of the answer is MONAI Label's own.

        Args:
            request: `model`, `image` (the id of an image, or the absolute path of what a client uploaded) and options;
                with `save_label`, the result is kept under `label_tag`, too.
            datastore: where the image is; None for the studies.

        Raises:
            UsageError: there is no such model.
            VolumeError: there is no such image, or it cannot be segmented.
        """
        task = self._infers.get(request.get("model"))
        if task is None:
            raise UsageError(f"model {request.get('model')!r}: expected one of {', '.join(self._infers)}")
        studies = datastore or self.datastore()
        image = str(request.get("image") or "")
        uploaded = Path(image).is_absolute()
        source = Path(image) if uploaded else image and studies.source(image)
        if not source:
            raise VolumeError(f"image {image!r}: no such image in the studies, and no such session")
        tag = str(request.get("label_tag") or DefaultLabelTag.ORIGINAL.value)
        with errors_name(source, f"image {image}"):
            path, reported = task({**request, "image": str(source)})
        label, weights = path, f"{request['model']} version {reported['weights_version']}"
        if not uploaded:
            self._drawn_by[image] = weights
        if path and not uploaded and flag(request, "save_label"):
            known = {"model": request["model"], "params": reported, "weights": weights}
            label = studies.save_label(image, path, tag, known)
        return {"label": label, "tag": tag, "file": path, "params": reported}

    def save_annotation(self, image: str, file: Path, tag: str, known: Mapping[str, Any]) -> dict[str, Any]:
        """Store what a person drew; the answer says so if another person's labels were there before.

        Args:
            image: its id.
            file: what the client sent.
            tag: of the label; empty for a final one.
            known: what the client says, and who it is (`user`).

        Raises:
            VolumeError, UsageError: it is no label of this image; nothing is stored.
        """
        tag = tag or DefaultLabelTag.FINAL.value
        before = self.datastore().get_label_info(image, DefaultLabelTag.ORIGINAL).get("weights", "")
        known = {**known, "weights": self._drawn_by.get(image, before), "restored": None}
        answer = {"image": image, "label": self.datastore().save_label(image, str(file), tag, known)}
        *_, earlier, own = [None, None, *self.folder.history.of(image)]
        if tag != DefaultLabelTag.FINAL.value or earlier is None or own is None or earlier.user == own.user:
            return answer
        note = f"image {image}: had labels by another person, which are kept: {earlier}; yours are version {own.number}"
        LOGGER.warning(note)
        return {**answer, "note": note}

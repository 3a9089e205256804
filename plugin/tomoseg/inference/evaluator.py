"""MONAI's evaluator with the engine behind it, for any config and any script."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from monai.data import MetaTensor, decollate_batch
from monai.engines import EnsembleEvaluator, SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.networks.utils import eval_mode
from monai.transforms import Compose, MeanEnsembled
from monai.utils.enums import CommonKeys

from tomoseg.bundle.options import BackendName, PrecisionName, RunOptions
from tomoseg.core.errors import UsageError
from tomoseg.inference.backends import choose_backend, choose_precision, make_backend
from tomoseg.inference.backends.fingerprint import describe_network
from tomoseg.inference.networks import Networks
from tomoseg.inference.sliding_window.fused_postprocessing import recognise_inferer, recognise_postprocessing
from tomoseg.inference.sliding_window.placement import NotRecognisedError, scan_grid
from tomoseg.inference.sliding_window.stream import Limits
from tomoseg.inference.streaming import Engine, as_prediction


class StreamingEvaluator(SupervisedEvaluator):  # type: ignore[misc]
    """MONAI's `SupervisedEvaluator`, faster and in bounded memory: the same labels, streamed slab by slab.

    It takes the place of `SupervisedEvaluator` or `EnsembleEvaluator` in a config or a script; handlers, events and
    metrics stay. The engine knows MONAI's sliding window, and a post-processing that begins with an optional soft-max
    or sigmoid, `Invertd` of the dataset's whole transform, and `AsDiscreted`. It never holds the logits of a whole
    volume: at the event FORWARD_COMPLETED, `pred` has the labels (B, C, I, J, K) as integers, in the scan's grid
    already if `Invertd` interpolates, and the other steps follow. All else runs as in MONAI's class, and the log says
    why.

    Args:
        args: as for `SupervisedEvaluator`.
        max_memory: limit for RAM, and for the GPU's memory, in bytes or as in "6GB"; None for none.
        backend: "torch", "openvino" or "auto", which is OpenVINO on a CPU, else torch.
        precision: "fp32", "bf16", "fp16" or "auto", which is what `amp` asks for.
        mirror_axes: axes of the network's input, 0 to 2 along (D, H, W), over whose mirrorings the logits are averaged;
            never one that runs from left to right where labels have a side.
        nnunet_windows: whether windows lie, and weigh, as nnU-Net's.
        networks, pred_keys: as for `EnsembleEvaluator`, in place of `network`; a leading `MeanEnsembled` averages them.
        kwargs: as for `SupervisedEvaluator`.

    Raises:
        UsageError: an option is out of range, or does not go with another, or with what only MONAI's class runs.
        MemoryLimitError: a scan needs more memory than `max_memory` allows.

    Example:
        >>> import tomoseg
        >>> import os
        >>> from monai.bundle import ConfigParser
        >>> bundle = tomoseg.find_bundle("hippocampus")
        >>> parser = ConfigParser()
        >>> parser.read_config(str(bundle.inference_config))
        >>> parser.update({"bundle_root": str(bundle.root), "dataset_dir": "scans", "output_dir": "labels"})
        >>> parser["evaluator::_target_"] = "tomoseg.StreamingEvaluator"
        >>> evaluator = parser.get_parsed_content("evaluator")
        >>> evaluator.run()
        >>> os.listdir("labels")
        ['scan_seg.nii.gz']
    """

    def __init__(
        self,
        *args: Any,
        max_memory: int | str | None = None,
        backend: BackendName = "auto",
        precision: PrecisionName = "auto",
        mirror_axes: Sequence[int] = (),
        nnunet_windows: bool = False,
        networks: Sequence[torch.nn.Module] | None = None,
        pred_keys: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if networks is not None:
            if "network" in kwargs:
                raise UsageError("network, networks: expected one of them, got both")
            kwargs["network"] = torch.nn.ModuleList(networks)
        given = signature(SupervisedEvaluator).bind(*args, **kwargs).arguments
        self._steps: Any = given.get("postprocessing")
        self._decollates = given.get("decollate", True)
        self._engine: Engine | None = None  # of this iteration; None where MONAI's class runs it
        if self._steps is not None:
            given["postprocessing"] = self._postprocess
        super().__init__(**given)
        self.networks = None if networks is None else tuple(networks)
        self.pred_keys = tuple(pred_keys or (f"{CommonKeys.PRED}_{index}" for index in range(len(networks or ()))))
        if len(self.pred_keys) != len(self.networks or ()):
            raise UsageError(f"pred_keys: expected one for each of the networks, got {list(self.pred_keys)}")
        self._mirror_axes = tuple(mirror_axes)
        if not set(self._mirror_axes) <= {0, 1, 2} or len(set(self._mirror_axes)) < len(self._mirror_axes):
            raise UsageError(f"mirror_axes: expected some of [0, 1, 2], got {list(mirror_axes)}")
        self._nnunet_windows = nnunet_windows
        if nnunet_windows:  # MONAI's inferer has no argument for it
            self.inferer.nnunet_windows = True
        if precision == "int8":
            raise UsageError("precision: int8 needs the checkpoint's file, as `tomoseg segment` has it. Use another")
        if self.compile and backend == "openvino":
            raise UsageError("compile: is for the torch backend. Use another backend")
        options = RunOptions(max_memory=max_memory, backend=backend, precision=precision)
        names = ("max_memory", "backend", "precision")
        self._not_for_monai = ", ".join(name for name in names if getattr(options, name) != getattr(RunOptions, name))
        self._limits = Limits(options.max_memory_bytes)
        self._device = torch.device(getattr(self.inferer, "sw_device", None) or self.state.device)
        autocast = self.amp_kwargs.get("dtype") if self.amp and self._device.type == "cuda" else None
        asked = "bf16" if (precision, autocast) == ("auto", torch.bfloat16) else precision
        self._precision = choose_precision(asked, self._device, self.amp)
        self._backend = "torch" if self.compile else choose_backend(backend, self._device, self._precision)
        self._may_fall_back = backend == "auto"
        self._networks: Networks | None = None
        self._fingerprints: list[str] = []
        self._logged: set[str] = set()
        if given.get("iteration_update") is not None:
            self._leave_to_monai("an iteration_update of its own")

    def _iteration(self, engine: Any, batchdata: Any) -> Any:
        try:
            output = self._stream(batchdata)
        except NotRecognisedError as reason:
            why = str(reason)
        else:
            self.state.output = output
            self.fire_event(IterationEvents.FORWARD_COMPLETED)
            self.fire_event(IterationEvents.MODEL_COMPLETED)
            return self.state.output
        self._engine = None  # not in the `except`, which keeps all that was made until then
        self._leave_to_monai(why)
        return (SupervisedEvaluator if self.networks is None else EnsembleEvaluator)._iteration(self, engine, batchdata)

    def _stream(self, batchdata: Any) -> dict[str, Any]:
        """Return image, label and the labels that were found, for a batch that the engine knows."""
        if not isinstance(batchdata, dict):
            raise NotRecognisedError("a batch that is no dictionary")
        self._engine = engine = self._recognise()
        images, reference, *more = self.prepare_batch(batchdata, self.state.device, self.non_blocking, **self.to_kwargs)
        if any(more) or not isinstance(images, MetaTensor) or not images.is_batch:
            raise NotRecognisedError("a batch with other input than images with their metadata")
        each = decollate_batch(images)
        scans = [scan_grid(image) if engine.fused.interpolated else None for image in each]
        if len({scan and scan.shape for scan in scans}) > 1:
            raise NotRecognisedError("scans of different shapes in one batch")
        found = []
        with self.mode(self.network):
            for image, scan in zip(each, scans, strict=True):
                name = str(image.meta.get("filename_or_obj", "image"))
                found.append(torch.from_numpy(engine.label(image, scan, name).array))
        labels = found[0][None] if len(found) == 1 else torch.stack(found)
        labels = labels.to(engine.fused.device or images.device)
        return {CommonKeys.IMAGE: images, CommonKeys.LABEL: reference, CommonKeys.PRED: labels}

    def _recognise(self) -> Engine:
        """Return what streams the images; NotRecognisedError where something else is to be done with them."""
        steps: Any = self._steps
        if self.mode is not eval_mode:
            raise NotRecognisedError("mode: train")
        if not self._decollates:
            raise NotRecognisedError("decollate: false")
        if type(steps) is not Compose:
            raise NotRecognisedError("a post-processing that is no Compose")
        if self.amp and self.amp_kwargs not in ({}, {"dtype": torch.float16}, {"dtype": torch.bfloat16}):
            raise NotRecognisedError("amp_kwargs other than the dtypes float16 and bfloat16")
        if self.networks is not None:
            first, *others = steps.transforms or [None]
            if (
                type(first) is not MeanEnsembled
                or (tuple(first.keys), first.output_key) != (self.pred_keys, CommonKeys.PRED)
                or first.ensemble.weights is not None
            ):
                raise NotRecognisedError("several networks without their plain mean")
            steps = Compose(others)
        preprocessing = getattr(getattr(self.data_loader, "dataset", None), "transform", None)
        fused = recognise_postprocessing(steps, preprocessing, CommonKeys.IMAGE, CommonKeys.PRED)
        inferer = recognise_inferer(self.inferer)
        return Engine(inferer, fused, self._ready_networks(), self._device, self._limits, self._mirror_axes)

    def _ready_networks(self) -> Networks:
        """Return the networks on their backend, with the weights that they have now."""
        modules = self.networks or (self.network,)
        compiled = self._backend == "openvino"  # torch runs the modules themselves
        with eval_mode(self.network):
            now = [describe_network(module) for module in modules] if compiled else []
        if self._networks is None or now != self._fingerprints:
            # of a network in training only the first weights are kept on disk
            keys = now if compiled and self._networks is None else [""] * len(modules)
            backends = [
                make_backend(self._backend, module, self._device, self._precision, key, compiled=False)
                for module, key in zip(modules, keys, strict=True)
            ]
            self._networks = Networks(modules, self._device, backends, self._may_fall_back, self._precision)
            self._fingerprints = now
        return self._networks

    def _postprocess(self, data: Any) -> Any:
        """Run the post-processing, or its remaining steps."""
        if self._engine is None:
            return self._steps(data)
        image = data[CommonKeys.IMAGE]
        grid = scan_grid(image) if self._engine.fused.interpolated else None
        prediction = as_prediction(data[CommonKeys.PRED], image, grid)
        return self._engine.fused.rest({**data, CommonKeys.PRED: prediction})

    def _leave_to_monai(self, reason: str) -> None:
        """Say once why MONAI's own class runs the batches; reject options that it does not have."""
        if self._mirror_axes:
            raise UsageError(f"mirror_axes: only the engine averages mirrorings, and it does not support {reason}")
        if self._nnunet_windows:
            raise UsageError(f"nnunet_windows: only the engine has them, and it does not support {reason}")
        if reason not in self._logged:
            self._logged.add(reason)
            beyond = f"; these options do not hold: {self._not_for_monai}" if self._not_for_monai else ""
            self.logger.warning("run by MONAI's own evaluator: the engine does not support %s%s", reason, beyond)

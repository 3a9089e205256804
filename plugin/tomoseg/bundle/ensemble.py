"""Inference configs of several networks whose logits are averaged, and of one of them alone."""

from collections.abc import Sequence

from tomoseg.bundle.configs import Json, checkpoint_loader, component

MEAN = "MeanEnsembled"
KEEP_LARGEST = "KeepLargestConnectedComponentd"


def ensemble_config(config: Json, files: Sequence[str]) -> Json:
    """Return an inference config whose logits are the mean over several networks, for stock MONAI and for the engine.

    Args:
        config: of one network, as `tomoseg plan` writes it.
        files: the checkpoints' names in the bundle's folder `models`.
    """
    keys = [f"pred_{index}" for index in range(len(files))]
    evaluator = {key: value for key, value in config["evaluator"].items() if key != "network"}
    made = {
        **_with_steps(config, [component(MEAN, keys=keys, output_key="pred"), *_steps(config, MEAN)]),
        "imports": list(dict.fromkeys(["$import copy", *config["imports"]])),
        "networks": f"$[copy.deepcopy(@network_def).to(@device) for _ in range({len(files)})]",
        "handlers": [
            checkpoint_loader(f"$@bundle_root + '/models/{name}'", f"$@networks[{index}]")
            for index, name in enumerate(files)
        ],
        "evaluator": {**evaluator, "_target_": "EnsembleEvaluator", "networks": "@networks", "pred_keys": keys},
    }
    made.pop("checkpoint", None)
    return made


def single_config(config: Json) -> Json:
    """Return the config of one network, whether several were put into it before or not."""
    if "networks" not in config:
        return config
    evaluator = {key: value for key, value in config["evaluator"].items() if key not in ("networks", "pred_keys")}
    return {
        **{key: value for key, value in _with_steps(config, _steps(config, MEAN)).items() if key != "networks"},
        "checkpoint": "$@bundle_root + '/models/model.pt'",
        "handlers": [checkpoint_loader("@checkpoint", "@network")],
        "evaluator": {**evaluator, "_target_": "SupervisedEvaluator", "network": "@network"},
    }


def keep_components(config: Json, labels: Sequence[int]) -> Json:
    """Return a config that keeps the largest component of some labels only.

    Args:
        config: of inference or of evaluation.
        labels: values of these labels; for none, nothing is changed.
    """
    steps = _steps(config, KEEP_LARGEST)
    if labels:
        place = next(index for index, step in enumerate(steps) if step["_target_"] == "AsDiscreted") + 1
        steps.insert(place, component(KEEP_LARGEST, keys="pred", applied_labels=list(labels)))
    return _with_steps(config, steps)


def _steps(config: Json, without: str) -> list[Json]:
    """Return the steps of the post-processing but for those of one kind."""
    return [step for step in config["postprocessing"]["transforms"] if step["_target_"] != without]


def _with_steps(config: Json, steps: list[Json]) -> Json:
    return {**config, "postprocessing": {**config["postprocessing"], "transforms": steps}}

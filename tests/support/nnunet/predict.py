"""Segment scans with nnU-Net's own predictor: `PYTHON predict.py JOBS.json`; PYTHON has nnunetv2.

JOBS.json: [{"model": "…/nnUNetTrainer__…", "scan": "….nii.gz", "labels": "….nii.gz"}, …]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ |= dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), "/nowhere")

import torch
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text())
    predictors: dict[str, nnUNetPredictor] = {}
    for job in jobs:
        model = job["model"]
        if model not in predictors:
            predictors = {model: _predictor(model)}
        _predict(predictors[model], job["scan"], job["labels"].removesuffix(".nii.gz"))


def _predictor(model: str) -> nnUNetPredictor:
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(model, None)
    return predictor


def _predict(predictor: nnUNetPredictor, scan: str, target: str) -> None:
    manager, configuration = predictor.plans_manager, predictor.configuration_manager
    preprocessor = configuration.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case([scan], None, manager, configuration, predictor.dataset_json)
    logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).cpu()
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    export_prediction_from_logits(logits, properties, configuration, manager, predictor.dataset_json, target, False)


if __name__ == "__main__":
    main()

"""Train a small nnU-Net with nnU-Net's own commands: `PYTHON train.py DATASET RESULTS`; PYTHON has nnunetv2.

DATASET is a Decathlon folder (hippocampus). RESULTS receives `Dataset004_Hippocampus/…`, as nnU-Net writes it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

NAME, CASES, BATCH = "Dataset004_Hippocampus", 20, 2
# so that a CPU trains it in minutes: Adam learns faster at first, and the network has this many times fewer features
EPOCHS, ITERATIONS, LEARNING_RATE, NARROWER = 5, 50, 3e-3, 2


def main() -> None:
    source, results = Path(sys.argv[1]), Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch) / name for name in ("nnUNet_raw", "nnUNet_preprocessed")}
        # nnU-Net reads these when it is imported
        os.environ |= {name: str(path) for name, path in folders.items()} | {"nnUNet_results": str(results)}
        os.environ |= {"nnUNet_compile": "f", "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1"}
        _copy_cases(source, folders["nnUNet_raw"] / NAME)
        _run_nnunet(folders["nnUNet_preprocessed"] / NAME / "nnUNetPlans.json")


def _copy_cases(source: Path, target: Path) -> None:
    """Lay out the first cases of a Decathlon dataset as nnU-Net reads them."""
    for folder in ("imagesTr", "labelsTr"):
        (target / folder).mkdir(parents=True)
    images = sorted((source / "imagesTr").glob("hippocampus_*.nii.gz"))[:CASES]
    for image in images:
        name = image.name.removesuffix(".nii.gz")
        shutil.copy(image, target / "imagesTr" / f"{name}_0000.nii.gz")
        shutil.copy(source / "labelsTr" / image.name, target / "labelsTr" / image.name)
    labels = {"background": 0, "Anterior": 1, "Posterior": 2}
    dataset = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": len(images), "file_ending": ".nii.gz"}
    dataset |= {"licence": "CC BY-SA 4.0", "reference": "Medical Segmentation Decathlon", "name": "Hippocampus"}
    (target / "dataset.json").write_text(json.dumps(dataset))


def _run_nnunet(plans: Path) -> None:
    import torch
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    extract_fingerprints([4], num_processes=1)
    plan_experiments([4])
    planned = json.loads(plans.read_text())
    configuration = planned["configurations"]["3d_fullres"]
    configuration["batch_size"] = BATCH
    arguments = configuration["architecture"]["arch_kwargs"]
    arguments["features_per_stage"] = [features // NARROWER for features in arguments["features_per_stage"]]
    plans.write_text(json.dumps(planned))
    preprocess([4], configurations=("3d_fullres",), num_processes=(1,))
    dataset = json.loads((plans.parent / "dataset.json").read_text())
    # nnU-Net's command adds the first key; the checkpoint holds these plans
    trainer = nnUNetTrainer(
        planned | {"continue_training": False}, "3d_fullres", 0, dataset, device=torch.device("cpu")
    )
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = EPOCHS, ITERATIONS, 2
    os.environ |= {"nnUNet_n_proc_DA": "0"}  # the planner refuses 0, the trainer then augments in this process
    trainer.initialize()
    trainer.optimizer = torch.optim.AdamW(trainer.network.parameters(), lr=LEARNING_RATE)
    trainer.lr_scheduler = PolyLRScheduler(trainer.optimizer, LEARNING_RATE, EPOCHS)
    trainer.run_training()


if __name__ == "__main__":
    main()

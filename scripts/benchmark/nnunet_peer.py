"""Segment one scan with nnU-Net's predictor and the weights of the benchmark's bundle.

Runs under a Python that has nnunetv2 and monai; imports nothing of tomoseg. Prints one line of JSON in the end.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from network import LAST, SPACING, WINDOW, make_network
from nnunet_plans import CONFIGURATION, FILE_ENDING, dataset, plans


def make_predictor(weights: Path, device: str, torch_resampling: bool = False) -> nnUNetPredictor:
    """nnU-Net's predictor around the network, whose kernels are turned to the order z, y, x."""
    state = torch.load(weights, map_location="cpu", weights_only=True)
    classes = len(state[LAST + ".bias"])
    turned = {
        name: tensor.transpose(2, 4).contiguous() if tensor.ndim == 5 else tensor for name, tensor in state.items()
    }
    manager = PlansManager(plans(SPACING, WINDOW, torch_resampling=torch_resampling))
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=device != "cpu",
        device=torch.device(device),
        allow_tqdm=False,
    )
    configuration = manager.get_configuration(CONFIGURATION)
    network = make_network(classes)
    predictor.manual_initialization(network, manager, configuration, [turned], dataset(classes), "nnUNetTrainer", None)
    return predictor


def predict_in_steps(predictor: nnUNetPredictor, scan: Path, target: str) -> dict[str, float]:
    """Do what `predict_from_files_sequential` does, and time its steps."""
    configuration, manager = predictor.configuration_manager, predictor.plans_manager
    started = time.perf_counter()
    preprocessor = configuration.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case([str(scan)], None, manager, configuration, predictor.dataset_json)
    preprocessed = time.perf_counter()
    logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).cpu()
    predicted = time.perf_counter()
    export_prediction_from_logits(logits, properties, configuration, manager, predictor.dataset_json, target, False)
    return {
        "preprocess": preprocessed - started,
        "network": predicted - preprocessed,
        "export": time.perf_counter() - predicted,
    }


def main() -> None:
    """Segment, and print the seconds and the memory."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("labels", type=Path, help=f"the file to write, *{FILE_ENDING}")
    parser.add_argument("--weights", type=Path, required=True, help="the bundle's models/model.pt")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--workers", type=int, default=0, help="as nnUNetv2_predict does, preprocess and export in so many processes"
    )
    parser.add_argument("--torch-resampling", action="store_true", help="not nnU-Net's default, but faster")
    options = parser.parse_args()

    target = str(options.labels)[: -len(FILE_ENDING)]
    predictor = make_predictor(options.weights, options.device, options.torch_resampling)
    if options.workers:
        counts = {"num_processes_preprocessing": options.workers, "num_processes_segmentation_export": options.workers}
        predictor.predict_from_files([[str(options.scan)]], [target], **counts)
        seconds: dict[str, float] = {}
    else:
        seconds = predict_in_steps(predictor, options.scan, target)
    seconds["total"] = time.perf_counter() - started
    print(json.dumps({"seconds": {name: round(value, 3) for name, value in seconds.items()}, **_peaks(options.device)}))


def _peaks(device: str) -> dict[str, int]:
    """The peaks of memory in MiB: of this process, of the largest of its children, and of the GPU."""
    import resource  # not on Windows

    unit = 2**20 if sys.platform == "darwin" else 2**10
    peaks = {
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit,
        "peak_children_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // unit,
    }
    if device.startswith("cuda"):
        peaks["peak_gpu_mib"] = torch.cuda.max_memory_allocated() // 2**20
    return peaks


if __name__ == "__main__":
    main()

"""Run a bundle as `python -m monai.bundle run` does, and print the seconds from the scan to the written labels."""

from __future__ import annotations

import json
import sys
import time

from monai.bundle import ConfigParser


def main() -> None:
    """Arguments: the bundle, the folder of the scan, the folder for the labels, the device, the evaluator's class."""
    bundle, dataset, output, device, evaluator = sys.argv[1:]
    parser = ConfigParser()
    parser.read_config(f"{bundle}/configs/inference.json")
    parser.update({"bundle_root": bundle, "dataset_dir": dataset, "output_dir": output})
    parser["device"] = f"$torch.device('{device}')"
    parser["evaluator::_target_"] = evaluator
    parser.get_parsed_content("initialize")
    engine = parser.get_parsed_content("evaluator")
    started = time.perf_counter()
    engine.run()
    print(json.dumps({"seconds": {"total": time.perf_counter() - started}}))


if __name__ == "__main__":
    main()

"""Does a GPU find what the CPU finds, and how long does it take?

    .venv/bin/python scripts/benchmark/devices.py SCAN … -b BUNDLE [--device cuda] [--precision fp32 bf16 fp16]

Prints a table in Markdown: for each precision the seconds of the slowest scan, reading and resampling included, after
one scan to warm up; those of its network; the memory of the GPU; and how many voxels differ from PyTorch's in fp32 on
the CPU.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from tomoseg import Segmenter, find_bundle
from tomoseg.bundle.options import RunOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, nargs="+", metavar="SCAN")
    parser.add_argument("-b", "--bundle", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16", "fp16"])
    options = parser.parse_args()
    bundle = find_bundle(options.bundle)
    reference = Segmenter(bundle, RunOptions(device="cpu", backend="torch", precision="fp32"))
    expected = [reference(scan).labels for scan in options.scans]
    voxels = sum(labels.size for labels in expected)
    print("| precision | a scan | network | GPU memory | voxels that differ |\n|---|---|---|---|---|")
    for precision in options.precision:
        segmenter = Segmenter(bundle, RunOptions(device=options.device, backend="torch", precision=precision))
        segmenter(options.scans[0])
        slowest, network, memory, different = 0.0, 0.0, 0, 0
        for scan, labels in zip(options.scans, expected, strict=True):
            start = time.perf_counter()
            found = segmenter(scan)
            taken = time.perf_counter() - start
            if taken > slowest:
                slowest, network = taken, found.stats.seconds["network"]
            memory = max(memory, found.stats.peak_vram_bytes)
            different += int(np.count_nonzero(found.labels != labels))
        row = f"{slowest:.2f} s | {network:.3f} s | {memory / 1e6:.0f} MB | {different} of {voxels:,}"
        print(f"| {precision} | {row} |", flush=True)


if __name__ == "__main__":
    main()

"""What a training may take of the machine: where it runs, and how much of the data is kept in memory."""

import math
import os
from typing import Any

import torch

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.planned import PlannedBundle, TrainEntry
from tomoseg.core.memory import free_bytes

CACHE_RAM_SHARE = 0.5  # of the free memory, for the cache; the rest is for the training itself and for others
CACHE_GPU_SHARE = 0.3
# Voxels of a crop from which on a GPU prepares it faster than eight processes beside it do: augmenting takes 65 ns a
# voxel and process on a CPU, and about 8 ms a crop on a GPU, where small crops wait for kernels to start. Measured with
# an H100 and 16 cores: crops of 175,000 voxels, prepared on the GPU, made a step take 2 to 2.7 times as long.
MIN_GPU_CROP_VOXELS = 100**3
IMAGE_VOXEL_BYTES = 4  # a voxel of a channel
GENERATOR = "generator"  # entry of a train.json that draws images from label maps, which it keeps in their own voxels
TISSUE_VOXEL_BYTES = 2
LABEL_VOXEL_BYTES = 1 + 1  # a voxel of the label map, and the places that crops are drawn from


def plan_cache(
    bundle: Bundle, config: dict[str, Any], cases: int, device: torch.device, unlabelled: int = 0
) -> dict[str, Any]:
    """Return the entries of train.json to change so that the cache fits: on the GPU, in memory, or in part.

    Args:
        bundle: the bundle; if it was not planned, the size of its cases is unknown, and nothing changes.
        config: its train.json.
        cases: number of cases that are kept, those for validation included.
        device: where it is trained.
        unlabelled: number of scans without label map that are kept; the first to stay out of a cache.
    """
    crop = config.get(TrainEntry.CROP_SIZE)
    planned = PlannedBundle.read(bundle.root)
    size = case_bytes(planned, crop)
    if planned is None or size is None or config.get("train", {}).get("dataset", {}).get("_target_") != "CacheDataset":
        return {}
    if GENERATOR in config:
        size += TISSUE_VOXEL_BYTES * math.prod(planned.fingerprint.get("median_shape", ()))
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    labelled, others = math.ceil(cases / processes), math.ceil(unlabelled / processes)
    large = isinstance(crop, list) and math.prod(crop) >= MIN_GPU_CROP_VOXELS
    on_gpu = device.type == "cuda" and TrainEntry.CACHE_DEVICE in config and large
    if on_gpu and size * (labelled + others) <= CACHE_GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
        return {TrainEntry.CACHE_DEVICE: "$str(@device)"}
    room = int(CACHE_RAM_SHARE * free_bytes() / processes // size)
    changes: dict[str, Any] = {}
    if labelled > room:
        changes["train::dataset::cache_num"] = room
        if config.get("validate", {}).get("dataset", {}).get("_target_") == "CacheDataset":
            changes["validate::dataset::cache_num"] = 0  # they are read once in ten epochs only
    if labelled + others > room and others:
        changes["unlabelled::dataset::cache_num"] = max(0, room - labelled)
    return changes


def case_bytes(planned: PlannedBundle | None, crop: Any) -> int | None:
    """Return the memory of a cached case; None if the size of the cases is unknown.

    Args:
        planned: the record of the bundle.
        crop: voxels of a crop, to which smaller cases are padded; None without crops.
    """
    if planned is None or planned.case_shape is None:
        return None
    edges = planned.case_shape
    if isinstance(crop, list):
        edges = tuple(max(edge, float(size)) for edge, size in zip(edges, crop, strict=True))
    return math.ceil(math.prod(edges) * (IMAGE_VOXEL_BYTES * planned.channels + LABEL_VOXEL_BYTES))

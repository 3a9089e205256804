"""What a training takes of a machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from support.trainings import tiny_bundle, write_dataset
from tomoseg import find_bundle
from tomoseg.bundle.planned import PlannedBundle
from tomoseg.core.errors import UsageError
from tomoseg.inference.device import choose_device
from tomoseg.training import resources, workflow
from tomoseg.training.options import TrainingOptions
from tomoseg.training.resources import case_bytes, plan_cache

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resources")
    return tiny_bundle(write_dataset(folder / "data"), folder / "bundle")


def test_cases_are_as_large_in_memory_as_was_said(bundle: Path) -> None:
    from support.bundles import parse_config

    parser = parse_config(bundle, "train", dataset_dir=str(bundle.parent / "data"))
    case = parser.get_parsed_content("train::dataset")._cache[0]
    held = sum(case[key].nbytes for key in ("image", "label"))
    said = case_bytes(PlannedBundle.read(bundle), parser.get_parsed_content("crop_size"))
    assert said is not None
    assert held <= said < 2 * held


def test_all_is_cached_where_there_is_room_and_some_where_there_is_not(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((bundle / "configs" / "train.json").read_text())
    size = case_bytes(PlannedBundle.read(bundle), config["crop_size"])
    assert size is not None
    assert plan_cache(find_bundle(bundle), config, 10, CPU) == {}
    assert config["validate"]["dataset"]["_target_"] == "CacheDataset"
    no_validation = {"validate::dataset::cache_num": 0}
    monkeypatch.setattr(resources, "free_bytes", lambda: 8 * size)
    assert plan_cache(find_bundle(bundle), config, 10, CPU) == {"train::dataset::cache_num": 4, **no_validation}
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert plan_cache(find_bundle(bundle), config, 10, CPU) == {"train::dataset::cache_num": 2, **no_validation}


def test_labelled_cases_are_cached_before_those_without_label_map(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((bundle / "configs" / "train.json").read_text())
    size = case_bytes(PlannedBundle.read(bundle), config["crop_size"])
    assert size is not None
    monkeypatch.setattr(resources, "free_bytes", lambda: 8 * size)
    found = find_bundle(bundle)
    assert plan_cache(found, config, 3, CPU, unlabelled=1) == {}
    assert plan_cache(found, config, 3, CPU, unlabelled=2) == {"unlabelled::dataset::cache_num": 1}
    both = {"train::dataset::cache_num": 4, "validate::dataset::cache_num": 0, "unlabelled::dataset::cache_num": 0}
    assert plan_cache(found, config, 5, CPU, unlabelled=2) == both


def test_of_a_bundle_that_was_not_planned_nothing_is_changed(bundle_copy: Path) -> None:
    config = json.loads((bundle_copy / "configs" / "train.json").read_text())
    assert plan_cache(find_bundle(bundle_copy), config, 10**6, CPU) != {}
    (bundle_copy / "configs" / "plan.json").unlink()
    assert plan_cache(find_bundle(bundle_copy), config, 10**6, CPU) == {}


@pytest.mark.parametrize(
    ("own", "threads", "wanted"),
    [
        (0, 3, 0),
        (8, 3, 3),
        (2, 3, 2),
        (8, None, 5),
        ("$4 + 4 if @cache_device == 'cpu' else 0", 3, 3),
        ("@steps", 2, 2),
    ],
)
def test_processes_that_prepare_batches_are_as_many_as_threads_at_most(
    own: int | str, threads: int | None, wanted: int, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "usable_threads", lambda: 5)
    path = bundle_copy / "configs" / "train.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_workers": own, "steps": 7}))
    found = workflow.TrainingWorkflow(find_bundle(bundle_copy), bundle_copy, TrainingOptions(threads=threads), 1)
    assert found.parser.get_parsed_content("num_workers") == wanted


@pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without a GPU")
def test_a_gpu_that_is_not_there_is_reported() -> None:
    assert choose_device("auto") == CPU
    with pytest.raises(UsageError, match="device: cuda:1 asked for, but there are 0 CUDA devices"):
        choose_device("cuda:1")


def test_a_gpu_prepares_large_crops_and_processes_beside_it_small_ones(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, config = torch.device("cuda"), json.loads((bundle / "configs" / "train.json").read_text())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (80 * 10**9, 80 * 10**9))
    assert plan_cache(find_bundle(bundle), config, 10, gpu) == {}
    large = config | {"crop_size": [128, 128, 128]}
    assert plan_cache(find_bundle(bundle), large, 10, gpu) == {"cache_device": "$str(@device)"}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**6, 80 * 10**9))
    assert plan_cache(find_bundle(bundle), large, 10, gpu) == {}

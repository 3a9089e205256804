"""What a bundle's files say agrees with each other, and names nothing but MONAI, PyTorch and Python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from support.bundles import CONFIGS, Json, Place, class_metrics, load_network, parse_config, read_config
from support.config_names import check_names


def test_hausdorff_distance_is_in_millimetres(bundle: Path) -> None:
    from monai.data import MetaTensor

    label, pred = torch.zeros(2, 1, 8, 8, 8)
    label[:, 2:4, 2:4, 2:4] = pred[:, 4:6, 2:4, 2:4] = 1
    affine = torch.diag(torch.tensor([3.0, 1.0, 0.5, 1.0]))
    distance = parse_config(bundle, "evaluate", dataset_dir=".").get_parsed_content("hausdorff95_mm")
    assert float(distance(pred[None], MetaTensor(label, affine=affine)[None])[0, 0]) == pytest.approx(6.0)


@pytest.mark.parametrize(("config", "kind"), [("train", "train"), ("evaluate", "infer"), ("inference", "infer")])
@pytest.mark.usefixtures("no_global_seed")
def test_applications_find_every_property(
    place: Place, data: Path, config: str, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from monai.bundle import ConfigWorkflow

    monkeypatch.chdir(place.folder)
    few = {"train_cases": "$@cases[:1]", "val_cases": "$@cases[1:2]", "ckpt_dir": str(tmp_path)}
    workflow = ConfigWorkflow(
        place.configs(config),
        logging_file=False,
        workflow_type=kind,
        dataset_dir=str(data / "imagesTr" if config == "inference" else data),
        **(few if config == "train" else {}),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.usefixtures("no_global_seed")
def test_training_evaluation_and_inference_preprocess_a_scan_alike(
    bundle: Path, data: Path, cases: tuple[str, ...]
) -> None:
    from monai.transforms import SpatialPad

    paths = {key: str(data / folder / f"{cases[0]}.nii.gz") for key, folder in _FOLDERS.items()}
    train = parse_config(bundle, "train", dataset_dir=str(data))
    images = {
        name: parse_config(bundle, name, dataset_dir=str(data)).get_parsed_content("preprocessing")(paths)["image"]
        for name in ("evaluate", "inference")
    }
    trained = train.get_parsed_content("validate::preprocessing")(paths)["image"]
    window, beyond = train.get_parsed_content("patch_size"), train["validate::inferer"].get("cval", 0.0)
    for image in images.values():
        # in training the volume is padded to the window; at inference the inferer does that
        assert torch.equal(SpatialPad(window, value=beyond)(image).as_tensor(), trained)


def test_configs_agree_on_network_window_and_labels(bundle: Path) -> None:
    train, evaluate, inference = (read_config(bundle, name) for name in CONFIGS[:3])
    formats = read_config(bundle, "metadata")["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    assert inference["network_def"] == evaluate["network_def"]
    supervision = {"deep_supervision", "deep_supr_num"}
    assert {k: v for k, v in train["network_def"].items() if k not in supervision} == inference["network_def"]
    assert inference["network_def"]["in_channels"] == image["num_channels"] == len(image["channel_def"])
    assert inference["network_def"]["out_channels"] == pred["num_channels"] == len(pred["channel_def"])
    assert list(pred["channel_def"]) == [str(channel) for channel in range(pred["num_channels"])]
    validation = train["validate"]["inferer"] | {"roi_size": train["patch_size"]}
    assert inference["inferer"] == evaluate["inferer"] == validation
    assert inference["inferer"]["roi_size"] == image["spatial_shape"] == pred["spatial_shape"]
    for config in (evaluate, train["validate"]):
        discrete = config["postprocessing"]["transforms"][-1]
        assert discrete["to_onehot"] == pred["num_channels"]
        metrics = config["key_metric"] | config["additional_metrics"]
        assert set(class_metrics(bundle)) <= set(metrics)
    assert inference["postprocessing"]["transforms"][0] == evaluate["postprocessing"]["transforms"][0]


def test_training_and_evaluation_split_the_cases_alike(bundle: Path, data: Path) -> None:
    listed = {Path(case["image"]).name for case in json.loads((data / "dataset.json").read_text())["training"]}
    for splits in ({}, {"splits_file": "nowhere.json"}):
        held_out: list[str] = []
        for fold in range(5):
            options: Json = {"dataset_dir": str(data), "fold": fold, **splits}
            train, evaluate = parse_config(bundle, "train", **options), parse_config(bundle, "evaluate", **options)
            scored = _names(evaluate.get_parsed_content("datalist"))
            assert scored == _names(train.get_parsed_content("val_cases"))
            assert sorted(scored + _names(train.get_parsed_content("train_cases"))) == sorted(listed)
            held_out += scored
            if not splits and (data / "splits.json").is_file():
                named = json.loads((data / "splits.json").read_text())[fold]["val"]
                assert sorted(scored) == sorted(f"{case}.nii.gz" for case in named)
        assert sorted(held_out) == sorted(listed)
    for config, item in (("train", "train_cases"), ("evaluate", "datalist")):
        everything = parse_config(bundle, config, dataset_dir=str(data), fold="none").get_parsed_content(item)
        assert sorted(_names(everything)) == sorted(listed)


def test_weights_are_plain_tensors_small_and_fit(bundle: Path) -> None:
    weights = bundle / "models" / "model.pt"
    assert weights.stat().st_size < 25e6
    assert all(torch.isfinite(parameter).all() for parameter in load_network(bundle, weights).parameters())


def test_bundle_holds_no_code(bundle: Path) -> None:
    assert not [path for path in bundle.rglob("*") if path.suffix in {".py", ".pyc", ".so", ".sh"}]
    assert not (bundle / "scripts").exists()
    for name in ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf"):
        assert (bundle / name).is_file()


@pytest.mark.parametrize("config", CONFIGS)
def test_every_name_in_a_config_is_monais_torchs_or_pythons(bundle: Path, config: str) -> None:
    check_names(bundle, config)


@pytest.fixture
def no_global_seed() -> Iterator[None]:
    """Undo what a config's `initialize` does to the whole process."""
    from monai.utils import set_determinism

    yield
    set_determinism(seed=None)


_FOLDERS = {"image": "imagesTr", "label": "labelsTr"}


def _names(cases: list[dict[str, str]]) -> list[str]:
    return [Path(case["image"]).name for case in cases]

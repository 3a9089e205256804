"""Stock MONAI verifies, trains, evaluates, runs and exports a planned bundle, from each layout of a dataset."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from support.bundles import (
    CHECKOUT,
    CONFIGS,
    DATA,
    Place,
    dice,
    load_network,
    parse_config,
    random_window,
    read_config,
    voxels,
)
from support.config_names import check_names
from support.tiers import rest_exhaustive
from support.trainings import tiny_bundle, tomoseg, write_dataset
from tomoseg import find_bundle
from tomoseg.bundle.planned import TrainEntry
from tomoseg.core.errors import DatasetError, UsageError
from tomoseg.planning.bundle_writer import plan
from tomoseg.planning.options import PlanningOptions

KINDS: dict[str, dict[str, Any]] = {
    "decathlon": {},
    "nnunet with an ignore label": {"layout": "nnunet", "names": {"Front": 2, "Back part": 7}, "ignore": True},
    "plain": {"layout": "plain"},
    "partly annotated ct": {"partial": True, "modality": "CT", "validation": 2},
}
BUDGET = PlanningOptions(4 * 10**9, "cpu", "small")


@pytest.fixture(scope="module", params=KINDS)
def planned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset, and a tiny bundle planned for it, beside each other."""
    folder = tmp_path_factory.mktemp("planned")
    dataset = write_dataset(folder / "data", **KINDS[request.param])
    return dataset, tiny_bundle(dataset, folder / "phantoms_bundle")


@pytest.mark.parametrize("config", [*CONFIGS, "semi_supervised"])
def test_configs_name_only_monai_torch_and_python(planned: tuple[Path, Path], config: str) -> None:
    check_names(planned[1], config)


def test_configs_have_every_entry_that_training_uses(planned: tuple[Path, Path]) -> None:
    entries = {*read_config(planned[1], "train"), *read_config(planned[1], "semi_supervised")}
    assert set(TrainEntry) - entries <= {TrainEntry.ANNOTATED_NAMES}  # of datasets that are annotated in part


def test_nothing_in_a_bundle_names_a_case_or_a_place(planned: tuple[Path, Path]) -> None:
    dataset, bundle = planned
    for path in bundle.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert "case_0" not in text
            assert str(dataset.parent) not in text


def test_the_same_data_give_the_same_bundle(planned: tuple[Path, Path], tmp_path: Path) -> None:
    moved = shutil.copytree(planned[0], tmp_path / "elsewhere" / "data")
    plan(planned[0], tmp_path / "one" / "bundle", BUDGET)
    plan(moved, tmp_path / "two" / "bundle", BUDGET)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / x).rglob("*.*")} for x in ("one", "two"))
    assert one == two
    assert {"train.json", "plan.json", "README.md", "metadata.json"} <= set(one)


def test_each_choice_has_a_reason(planned: tuple[Path, Path]) -> None:
    plan, card = read_config(planned[1], "plan"), (planned[1] / "docs" / "README.md").read_text()
    assert {"spacing_mm", "patch", "batch", "network", "intensities", "mirror_axes", "loss"} <= set(plan["choices"])
    for choice in plan["choices"].values():
        assert len(choice["reason"]) > 5
        assert choice["reason"] in card


def test_the_bundle_is_known_to_the_plugin(planned: tuple[Path, Path]) -> None:
    bundle = find_bundle(planned[1])
    named = (planned[0] / "dataset.json").exists()
    assert bundle.labels == ({1: "Front", 2: "Back part"} if named else {1: "label_1", 2: "label_2"})
    assert bundle.modality in ("CT", "MR")


@pytest.mark.parametrize(("config", "kind"), [("train", "train"), ("evaluate", "infer"), ("inference", "infer")])
def test_applications_find_every_property(planned: tuple[Path, Path], config: str, kind: str, tmp_path: Path) -> None:
    from monai.bundle import ConfigWorkflow
    from monai.utils import set_determinism

    dataset, bundle = planned
    images = dataset / "imagesTr" if (dataset / "imagesTr").is_dir() else dataset / "images"
    workflow = ConfigWorkflow(
        str(bundle / "configs" / f"{config}.json"),
        logging_file=False,
        workflow_type=kind,
        dataset_dir=str(images if config == "inference" else dataset),
        bundle_root=str(bundle),
        **({"ckpt_dir": str(tmp_path)} if config == "train" else {}),
    )
    workflow.initialize()
    try:
        assert workflow.check_properties() == []
    finally:
        set_determinism(seed=None)


def test_metadata_is_valid_and_true(planned: tuple[Path, Path], schema_file: Path, tmp_path: Path) -> None:
    place = Place(planned[1], planned[1].parent)
    shutil.copy(schema_file, tmp_path / "schema.json")
    metadata = ("--meta_file", place.path("configs/metadata.json"))
    printed = place.call("verify_metadata", *metadata, "--filepath", str(tmp_path / "schema.json"))
    assert "metadata is verified with no error" in printed
    network = ("--net_id", "network_def", "--config_file", place.configs("inference"))
    assert "verified with no error" in place.call("verify_net_in_out", *network, *metadata)


def test_training_and_evaluation_hold_out_the_same_cases(planned: tuple[Path, Path]) -> None:
    dataset, bundle = planned
    held_out = []
    for fold in range(5):
        options = {"dataset_dir": str(dataset), "fold": fold}
        train, evaluate = parse_config(bundle, "train", **options), parse_config(bundle, "evaluate", **options)
        scored = [case["image"] for case in evaluate.get_parsed_content("datalist")]
        assert scored == [case["image"] for case in train.get_parsed_content("val_cases")]
        trained = [case["image"] for case in train.get_parsed_content("train_cases")]
        assert len(trained) + len(scored) == 6
        assert not set(trained) & set(scored)
        held_out += scored
    assert len(set(held_out)) == 6
    everything = parse_config(bundle, "train", dataset_dir=str(dataset), fold="none").get_parsed_content("train_cases")
    assert len(everything) == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "planned", rest_exhaustive(sorted(KINDS, key=lambda kind: "nnunet" not in kind), 2), indirect=True
)
def test_stock_monai_trains_evaluates_and_infers_and_the_engine_agrees(
    planned: tuple[Path, Path], tmp_path: Path
) -> None:
    dataset, bundle = planned
    place = Place(bundle, bundle.parent)
    places = ("--dataset_dir", str(dataset))
    place.call("run", "--config_file", place.configs("train"), *places, "--epochs", "2")
    weights = bundle / "train" / "model.pt"
    assert {path.name for path in weights.parent.iterdir()} == {"model.pt", "model_best.pt"}
    load_network(bundle, weights)  # strictly
    scores = ("--checkpoint", str(weights), "--output_dir", str(tmp_path / "scores"))
    printed = place.call("run", "--config_file", place.configs("evaluate"), *places, *scores)
    for name in find_bundle(bundle).labels.values():
        assert f"val_dice_{name}: " in printed
    images = dataset / "imagesTr" if (dataset / "imagesTr").is_dir() else dataset / "images"
    inside = Place(bundle, bundle)  # from inside the bundle, too
    inside.call(
        *("run", "--config_file", inside.configs("inference"), "--dataset_dir", str(images)),
        *("--checkpoint", str(weights), "--output_dir", str(tmp_path / "stock")),
    )
    done = tomoseg(
        "segment", images, "-o", tmp_path / "ours", "-b", bundle, "--checkpoint", weights, "--backend", "torch"
    )
    assert done.returncode == 0, done.stderr
    for stock in sorted((tmp_path / "stock").iterdir()):
        np.testing.assert_array_equal(voxels(nib.load(stock)), voxels(nib.load(tmp_path / "ours" / stock.name)))


@pytest.mark.exhaustive  # continuous integration has the shipped bundles' in `test_monai_bundle`
@pytest.mark.parametrize("planned", KINDS, indirect=True)
def test_two_processes_train_and_score_together(planned: tuple[Path, Path], tmp_path: Path) -> None:
    dataset, bundle = planned
    place = Place(bundle, bundle.parent)
    printed = place.run(
        *("run", "--config_file", place.configs("train", "multi_gpu_train"), "--dataset_dir", str(dataset)),
        *("--epochs", "2", "--ckpt_dir", str(tmp_path / "weights")),
        scratch=tmp_path,
        processes=2,
    )
    assert printed.count("Epoch[2] Metrics") == 1, "only the first process reports"
    printed = place.run(
        *("run", "--config_file", place.configs("evaluate", "multi_gpu_evaluate"), "--dataset_dir", str(dataset)),
        *("--checkpoint", str(tmp_path / "weights" / "model.pt"), "--output_dir", str(tmp_path / "scores")),
        scratch=tmp_path,
        processes=2,
    )
    assert printed.count("Epoch[1] Metrics") == 1


@pytest.mark.slow
@pytest.mark.parametrize("planned", rest_exhaustive(KINDS), indirect=True)
def test_it_is_exported(planned: tuple[Path, Path], tmp_path: Path) -> None:
    bundle = planned[1]
    place = Place(bundle, bundle.parent)
    weights = tmp_path / "model.pt"
    network = parse_config(bundle, "inference", dataset_dir=".").get_parsed_content("network_def").eval()
    torch.save(network.state_dict(), weights)
    place.call(
        *("ckpt_export", "--net_id", "network_def", "--filepath", str(tmp_path / "model.ts")),
        *("--config_file", place.configs("inference"), "--ckpt_file", str(weights)),
        *("--meta_file", place.path("configs/metadata.json")),
    )
    window = random_window(bundle)
    with torch.no_grad():
        exported = torch.jit.load(tmp_path / "model.ts")(window)  # type: ignore[no-untyped-call]
        torch.testing.assert_close(exported, network(window), rtol=1e-4, atol=1e-4)


def test_a_score_leaves_out_what_is_ignored(tmp_path: Path) -> None:
    """With predictions that are right but for the ignored corner, Dice is 1."""
    dataset = write_dataset(tmp_path / "data", ignore=True)
    bundle = tiny_bundle(dataset, tmp_path / "bundle")
    parser = parse_config(bundle, "evaluate", dataset_dir=str(dataset))
    case = parser.get_parsed_content("cases")[0]
    data = parser.get_parsed_content("preprocessing")(case)
    truth = data["label"].as_tensor()[0].long()
    assert data["label"].max() == 2
    scores = torch.nn.functional.one_hot(truth, 3).movedim(-1, 0).float()
    scores[1, :6, :6, :6] = 9
    steps = parser.get_parsed_content("postprocessing").transforms[1:]  # without going back to the scan's grid
    data["pred"] = scores
    for step in steps:
        data = step(data)
    for label in (1, 2):
        assert dice(np.asarray(data["pred"][label]), np.asarray(data["label"][label]), 1) == 1.0


def test_what_was_not_drawn_is_not_scored(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", partial=True)
    path = dataset / "labelsTr" / "case_01.nii.gz"  # only the first label was drawn there
    image = nib.load(path)
    array = voxels(image).copy()
    array[0, 0, 0] = 2  # a slip: it counts as not drawn
    nib.save(nib.Nifti1Image(array, image.affine), path)
    bundle = tiny_bundle(dataset, tmp_path / "bundle")
    parser = parse_config(bundle, "evaluate", dataset_dir=str(dataset), fold="none")
    assert parser.get_parsed_content("preprocessing")(parser.get_parsed_content("cases")[1])["label"].max() == 1


def test_files_that_are_not_named_alike_are_reported(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", layout="plain")
    (dataset / "labels" / "case_00_seg.nii.gz").rename(dataset / "labels" / "case_00.nii.gz")
    with pytest.raises(DatasetError, match="expected files named alike"):
        plan(dataset, tmp_path / "bundle", BUDGET)


def test_nothing_is_overwritten_and_weights_never(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data")
    bundle = tmp_path / "bundle"
    plan(dataset, bundle, BUDGET)
    (bundle / "models").mkdir()
    (bundle / "models" / "model.pt").write_text("weights")
    with pytest.raises(UsageError, match=r"exists\. Choose another folder with -o, or --overwrite"):
        plan(dataset, bundle, BUDGET)
    plan(dataset, bundle, replace(BUDGET, overwrite=True))
    assert (bundle / "models" / "model.pt").read_text() == "weights"
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def lower(config: Any) -> Any:
    """Return a config in lower case, as which the shipped bundles have the names of their labels."""
    return json.loads(json.dumps(config).lower())


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA)
def test_shipped_bundles_are_what_the_planner_makes_of_their_data(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    shipped, planned = CHECKOUT / "monai_bundle" / name, tmp_path / name
    plan(request.getfixturevalue(DATA[name]), planned, PlanningOptions(8 * 10**9, device="cpu"))
    for path in (planned / "configs").glob("*.json"):
        if path.stem != "metadata":  # which also describes the training and its scores
            assert lower(read_config(shipped, path.stem)) == lower(read_config(planned, path.stem)), path.name
    mine, theirs = (lower(read_config(folder, "metadata")) for folder in (planned, shipped))
    assert mine["network_data_format"] == theirs["network_data_format"]
    for value, entry in mine["label_table"].items():
        assert theirs["label_table"][value] | entry == theirs["label_table"][value]


@pytest.mark.parametrize(
    "names", [{"GTV+": 1, "GTV-": 2}, {"海马前部": 1, "Tumour (necrotic)": 2}, {"back": 2, "front": 1}]
)
def test_names_of_labels_are_kept_as_the_dataset_has_them(names: dict[str, int], tmp_path: Path) -> None:
    plan(write_dataset(tmp_path / "data", names=names), tmp_path / "bundle", BUDGET)
    assert find_bundle(f"{tmp_path}/bundle").labels == {value: name for name, value in names.items()}


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({"right parotid": 1, "Right_Parotid": 2}, "'right parotid' and 'Right_Parotid' are one name"),
        ({"é": 1, "e\u0301": 2}, "are one name"),
        ({"GTV": 1, "Background": 2}, "'background' and 'Background' are one name"),
        ({"GTV": 1, "@GTV": 2}, "expected label names without # @ % $, got '@GTV'"),
    ],
)
def test_names_that_fall_together_are_refused(names: dict[str, int], told: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=re.escape(told)):
        plan(write_dataset(tmp_path / "data", names=names), tmp_path / "bundle", BUDGET)
    assert not (tmp_path / "bundle").exists()


def interpreted(content: Any, place: str = "") -> dict[str, str]:
    """Return all texts that MONAI interprets, by where they stand."""
    if isinstance(content, dict | list):
        entries = content.items() if isinstance(content, dict) else enumerate(content)
        return {key: text for name, entry in entries for key, text in interpreted(entry, f"{place}/{name}").items()}
    return {place: content} if isinstance(content, str) and content.lstrip().startswith(("$", "@", "%")) else {}


def test_no_text_of_a_dataset_means_anything_in_the_bundle(tmp_path: Path) -> None:
    benign = ("name", "description", "reference", "licence")
    hostile = ("$__import__('os').system('touch pwned')", "%/etc/passwd", " @bundle_root", "<script>alert(1)</script>")
    found = []
    for number, texts in enumerate((benign, hostile)):
        dataset = write_dataset(tmp_path / str(number) / "data")
        content = json.loads((dataset / "dataset.json").read_text())
        content |= dict(zip(("name", "description", "reference", "licence"), texts, strict=True))
        content["name"] += " ![x](http://example.org/x.png)\n# Accuracy | <img src=http://example.org/y>"
        content["modality"] = {"0": texts[0]}
        (dataset / "dataset.json").write_text(json.dumps(content))
        bundle = tmp_path / str(number) / "bundle"
        plan(dataset, bundle, replace(BUDGET, modality="MR"))
        found.append({path.name: interpreted(json.loads(path.read_text())) for path in bundle.rglob("*.json")})
        card = (bundle / "docs" / "README.md").read_text()
        assert not re.search(r"(?<!\\)(<script|<img|!\[|\]\()", card)
        assert card.count("\n# ") == 0
    assert found[0] == found[1]
    assert found[0]["metadata.json"] == found[0]["plan.json"] == {}


def test_what_is_trained_on_is_what_was_checked(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", layout="nnunet")
    description = json.loads((dataset / "dataset.json").read_text())
    first, *others = sorted((dataset / "labelsTr").iterdir())
    ending = first.name[first.name.index(".") :]
    listed = {
        path.name.removesuffix(ending): {
            "images": [f"imagesTr/{path.name.removesuffix(ending)}_0000{ending}"], "label": f"labelsTr/{path.name}",
        }
        for path in others
    }  # fmt: skip
    (dataset / "dataset.json").write_text(json.dumps({**description, "dataset": listed}))
    with pytest.raises(DatasetError, match=r"is not listed in dataset\.json"):
        plan(dataset, tmp_path / "bundle", BUDGET)
    lists = {"dataset": listed, "training": [{"image": f"imagesTr/{first.name}", "label": f"labelsTr/{first.name}"}]}
    (dataset / "dataset.json").write_text(json.dumps({**description, **lists}))
    with pytest.raises(UsageError, match="training and dataset: two lists of cases that differ"):
        plan(dataset, tmp_path / "bundle", BUDGET)


def test_command_line(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    done = tomoseg("plan", "data", "-o", "bundle", "--preset", "small", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "why" in done.stdout
    assert "next: tomoseg train ./bundle --data data" in done.stdout
    again = tomoseg("plan", "data", "-o", "bundle", folder=tmp_path)
    assert again.returncode == 2
    assert len(again.stderr.splitlines()) == 1


def test_a_modality_without_a_source_is_reported(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", layout="plain")
    done = tomoseg("plan", "data", "-o", "bundle", "--preset", "small", folder=tmp_path)
    assert "taken for MR by the values of its first scan; if it is not, plan it with --modality" in done.stdout
    done = tomoseg("plan", "data", "-o", "other", "--preset", "small", "--modality", "MR", folder=tmp_path)
    assert "taken for" not in done.stdout

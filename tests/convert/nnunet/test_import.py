"""`tomoseg import`: a trained nnU-Net becomes a bundle; a damaged or hostile one becomes one line and nothing else."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.command_line import run_inside
from support.nnunet.models import KINDS, write_model
from support.nnunet.scans import SCANS, write_scan
from tomoseg import RunOptions, Segmenter, find_bundle
from tomoseg.convert.nnunet.bundle import import_nnunet, plain_text, restricted_task
from tomoseg.convert.nnunet.entry import Entry
from tomoseg.convert.nnunet.labels import read_labels
from tomoseg.convert.nnunet.plans import Plans, read_plans
from tomoseg.inference.config import InferenceConfig

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(KINDS["isotropic"], tmp_path_factory.mktemp("nnunet") / "Dataset901_isotropic")


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    target = tmp_path / "results" / model.parent.name / model.name
    shutil.copytree(model, target, copy_function=lambda source, to: Path(to).hardlink_to(source))
    return target


def change(path: Path, edit: Change) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.unlink()  # it may be a link
    path.write_text(json.dumps(content))


def configuration(edit: Change) -> Callable[[Path], None]:
    return lambda folder: change(folder / "plans.json", lambda plans: edit(plans["configurations"]["3d_fullres"]))


def architecture(edit: Change) -> Callable[[Path], None]:
    return configuration(lambda entry: edit(entry["architecture"]["arch_kwargs"]))


def plans_file(edit: Change) -> Callable[[Path], None]:
    return lambda folder: change(folder / "plans.json", edit)


def dataset(edit: Change) -> Callable[[Path], None]:
    return lambda folder: change(folder / "dataset.json", edit)


def rewrite(name: str, content: bytes | None) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content or whole[: len(whole) // 2])

    return act


def weights(edit: Change) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / "fold_0" / "checkpoint_final.pth"
        content = torch.load(path, weights_only=False)
        edit(content)
        path.unlink()
        torch.save(content, path)

    return act


CODE = "__import__('os').system('touch MARKER')"
CHECKPOINT = "fold_0/checkpoint_final.pth"


class Runs:
    """A pickle that runs a program."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (CODE,)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (rewrite("plans.json", None), "has no plans.json"),
        (rewrite("dataset.json", None), "dataset.json: is missing"),
        (rewrite(CHECKPOINT, None), "checkpoint_final.pth: no such checkpoint"),
        (rewrite(CHECKPOINT, b""), "checkpoint_final.pth: cannot be read"),
        (rewrite("plans.json", b"[" * 100_000), "plans.json: cannot be read as JSON"),
        (rewrite("plans.json", b"[1, 2]"), "expected an object"),
        (weights(lambda content: content.update(network_weights=Runs())), "not opened, for it names eval"),
        (weights(lambda content: content.pop("network_weights")), "network_weights"),
        (weights(lambda content: content["network_weights"].pop("decoder.seg_layers.2.weight")), "has no weights for"),
        (weights(lambda content: content["network_weights"].update(extra=torch.ones(1))), "extra"),
        (weights(lambda content: content.update(inference_allowed_mirroring_axes=[7])), "mirroring"),
        (architecture(lambda entry: entry.update(conv_op=CODE)), "conv_op: expected Conv3d"),
        (architecture(lambda entry: entry.update(norm_op="$" + CODE)), "norm_op: expected InstanceNorm3d"),
        (architecture(lambda entry: entry.update(nonlin="torch.nn.GELU")), "nonlin: expected LeakyReLU"),
        (architecture(lambda entry: entry.update(features_per_stage=[10**9] * 4)), "features_per_stage[0]"),
        (architecture(lambda entry: entry.update(features_per_stage=["$1"] * 4)), "features_per_stage[0]"),
        (architecture(lambda entry: entry.update(features_per_stage=[24, 48, 96, 200])), "expected the shape"),
        (architecture(lambda entry: entry.update(strides=[[2, 2, 2]] * 4)), "strides"),
        (architecture(lambda entry: entry.update(kernel_sizes=[[3, 3, 3]] * 3)), "kernel_sizes: expected a list of 4"),
        (architecture(lambda entry: entry.pop("strides")), "lacks 'strides'"),
        (
            configuration(lambda entry: entry["architecture"].update(network_class_name="a.b.Primus")),
            "'Primus' cannot be imported",
        ),
        (configuration(lambda entry: entry.update(patch_size=[64, 64])), "2D network"),
        (configuration(lambda entry: entry.update(previous_stage="3d_lowres")), "cascade"),
        (configuration(lambda entry: entry.update(inherits_from="3d_fullres")), "inherits from itself"),
        (configuration(lambda entry: entry.update(spacing=[1, 1, -1])), "spacing[2]"),
        (configuration(lambda entry: entry.update(spacing=[1, 1, float("nan")])), "spacing[2]: expected a number"),
        (configuration(lambda entry: entry.update(normalization_schemes=[CODE])), "normalization_schemes[0]"),
        (configuration(lambda entry: entry.update(resampling_fn_data="os.system")), "resampling_fn_data"),
        (plans_file(lambda plans: plans.update(transpose_forward=[0, 0, 1])), "transpose_forward"),
        (plans_file(lambda plans: plans.update(image_reader_writer="NaturalImage2DIO")), "image_reader_writer"),
        (plans_file(lambda plans: plans["configurations"].pop("3d_fullres")), "lacks '3d_fullres'"),
        (dataset(lambda content: content["labels"].update({"$" + CODE: 3})), "label names without # @ % $"),
        (dataset(lambda content: content["labels"].update({"@network": 3})), "label names without # @ % $"),
        (dataset(lambda content: content["labels"].update(gap=7)), "values without gaps"),
        (dataset(lambda content: content["labels"].update(more=3)), "expected the shape"),
        (dataset(lambda content: content.update(channel_names={"0": "T1", "1": "T2"})), "has the channels 0, 1"),
    ],
)
def test_bad_model_is_one_line(
    spoil: Callable[[Path], None], says: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy.parent)
    spoil(copy)
    output = copy.parents[2] / "bundle"
    done = run_inside("import", copy, "-o", output)
    assert done.returncode == 2, done
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not output.exists()
    assert not list(output.parent.glob(".*"))
    assert not list(copy.parents[2].rglob("MARKER"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../evil/plans.json", "outside of itself"),
        ("/evil/plans.json", "outside of itself"),
        ("..\\evil\\plans.json", "outside of itself"),
        ("a/b.txt", "no plans.json"),
    ],
)
def test_bad_zip_is_one_line(name: str, says: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr(name, "{}")
    done = run_inside("import", tmp_path / "model.zip", "-o", tmp_path / "bundle")
    assert done.returncode == 2
    assert says in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.zip"]


def test_damaged_zip_is_one_line(model: Path, tmp_path: Path) -> None:
    whole = Path(shutil.make_archive(str(tmp_path / "model"), "zip", model.parent.parent)).read_bytes()
    (tmp_path / "model.zip").write_bytes(whole[:-1000])
    done = run_inside("import", tmp_path / "model.zip", "-o", tmp_path / "bundle")
    assert done.returncode == 2
    assert "cannot be read as a ZIP" in done.stderr


def test_folder_dataset_and_zip_give_one_bundle(model: Path, tmp_path: Path) -> None:
    packed = shutil.make_archive(str(tmp_path / "model"), "zip", model.parent.parent, model.parent.name)
    sources: dict[str, Path | str] = {"results": model, "dataset": model.parent, "zip": packed}
    for name, source in sources.items():
        import_nnunet(source, tmp_path / name / "bundle")
    for path in ("configs/inference.json", "models/model.pt"):
        assert len({(tmp_path / name / "bundle" / path).read_bytes() for name in sources}) == 1
    described = find_bundle(str(tmp_path / "zip" / "bundle")).describe()
    assert described["labels"] == {"1": "anterior", "2": "posterior"}
    assert described["imported_from"]["trainer"] == "nnUNetTrainer"


def test_several_configurations_need_a_choice(copy: Path, tmp_path: Path) -> None:
    other = copy.with_name(copy.name.replace("fullres", "lowres"))
    shutil.copytree(copy, other)
    change(
        other / "plans.json",
        lambda plans: plans["configurations"].update({"3d_lowres": {"inherits_from": "3d_fullres"}}),
    )
    done = run_inside("import", copy.parent, "-o", tmp_path / "bundle")
    assert done.returncode == 2
    assert "--configuration" in done.stderr
    done = run_inside("import", copy.parent, "-o", tmp_path / "bundle", "--configuration", "3d_lowres")
    assert done.returncode == 0, done.stderr
    assert "next: tomoseg segment" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--folds", "0,7"), "no fold '7'"),
        (("--checkpoint", "latest"), "--checkpoint: expected final or best"),
        (("--checkpoint", "best"), "checkpoint_best.pth: no such checkpoint"),
        (("--axcodes", "RAL"), "--axcodes: expected file or three letters"),
        (("--configuration", "3d_lowres"), "has no '3d_lowres'"),
    ],
)
def test_bad_option_is_one_line(arguments: tuple[str, ...], says: str, model: Path, tmp_path: Path) -> None:
    done = run_inside("import", model, "-o", tmp_path / "bundle", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert not (tmp_path / "bundle").exists()


def test_bundle_that_is_there_is_kept(model: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine").touch()
    done = run_inside("import", model, "-o", tmp_path / "bundle")
    assert done.returncode == 2
    assert ": exists. Choose" in done.stderr


def test_texts_of_strangers_are_no_expressions(copy: Path, tmp_path: Path) -> None:
    texts = {"licence": "$" + CODE, "reference": "%configs/metadata.json", "description": "a\n@network\x1b[31m#1"}
    change(copy / "dataset.json", lambda content: content.update(texts))
    import_nnunet(copy, tmp_path / "bundle")
    metadata = (tmp_path / "bundle" / "configs" / "metadata.json").read_text()
    assert not set(json.loads(metadata)["imported_from"]["licence"]) & set("$@%#")
    assert "\\u001b" not in metadata
    assert plain_text("a\n b\x1b[31m $c") == "a b[31m ＄c"  # noqa: RUF001


def test_regions_say_what_is_left_of_them() -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    content = {"labels": labels, "regions_class_order": [1, 2, 3]}
    found = read_labels(Entry(content, "dataset.json"))
    assert found.names == {1: "whole without core", 2: "core without enhancing", 3: "enhancing"}
    assert (found.heads, found.region_values) == (3, (1, 2, 3))


@pytest.mark.parametrize(
    ("options", "splines", "found"),
    [
        ({"force_separate_z": None}, True, 3.0),
        ({"force_separate_z": False}, True, None),
        ({"force_separate_z": True}, True, 0.0),
        ({}, True, None),
        ({}, False, 3.0),
        ({"force_separate_z": None, "separate_z_anisotropy_threshold": 2}, True, 2.0),
    ],
)
def test_coarsest_axis(options: dict[str, Any], splines: bool, found: float | None, model: Path) -> None:
    plans = json.loads((model / "plans.json").read_text())
    entry = plans["configurations"]["3d_fullres"]
    for what, order in (("data", 3), ("probabilities", 1)):
        entry[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape" if splines else "resample_torch_fornnunet"
        entry[f"resampling_fn_{what}_kwargs"] = {"is_seg": False, "order": order, **options}
    read: Plans = read_plans(Entry(plans, "plans.json"), "3d_fullres")
    assert read.resampling.max_anisotropy == found
    assert read.resampling.order == (3 if splines else 1)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("Dataset301_heart_highres_1559subj", "heartchambers_highres"),
        ("Dataset409_neuro_550subj", "brain_structures"),
        ("Dataset291_TotalSegmentator_part1_organs_1559subj", None),
        ("Dataset004_Hippocampus", None),
    ],
)
def test_models_that_need_a_licence(name: str, task: str | None) -> None:
    assert restricted_task(name) == task


@pytest.mark.slow
def test_set_is_its_members_merged(model: Path, tmp_path: Path) -> None:
    other = write_model(KINDS["regions"], tmp_path / "Dataset906_regions")
    done = run_inside("import", model, other, "-o", tmp_path / "both")
    assert done.returncode == 0, done.stderr
    bundle = find_bundle(tmp_path / "both")
    assert bundle.labels == {1: "anterior", 2: "posterior", 3: "hippocampus without posterior"}
    scan = write_scan(tmp_path / "scan.nii.gz", SCANS["mr_ras"])
    members = [Segmenter(member, RunOptions(device="cpu"))(scan).labels for member, _ in bundle.members]
    expected = members[0].copy()
    values = np.array([0, 3, 2])  # the second member's own 1 and 2
    expected[members[1] > 0] = values[members[1]][members[1] > 0]
    found = Segmenter(bundle, RunOptions(device="cpu"))(scan)
    assert np.array_equal(found.labels, expected)
    assert [label.name for label in found.label_table] == list(bundle.labels.values())
    assert {2, 3} <= set(np.unique(expected))
    done = run_inside("segment", scan, "-o", tmp_path / "out", "-b", tmp_path / "both")
    assert done.returncode == 0, done.stderr
    assert (
        json.loads((tmp_path / "out" / "report.json").read_text())["cases"][0]["labels"][2]["name"] == bundle.labels[3]
    )


@pytest.mark.parametrize(
    ("norm", "name", "counts"),
    [
        ("BatchNorm3d", "PlainConvUNet", [2, 2, 2]),
        ("InstanceNorm3d", "PlainConvUNet", [2, 3, 1]),
        ("BatchNorm3d", "ResidualEncoderUNet", [1, 2, 1]),
    ],
)
def test_networks_that_monai_lacks_compute_the_same(norm: str, name: str, counts: list[int], tmp_path: Path) -> None:
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    folder = write_model(KINDS["transposed"], tmp_path / "Dataset903_transposed")
    blocks = "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage"
    arguments: dict[str, Any] = {
        "n_stages": 3,
        "features_per_stage": [8, 12, 16],
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        blocks: counts,
        "n_conv_per_stage_decoder": [2, 1],
        "conv_bias": True,
        "norm_op_kwargs": {"eps": 1e-4, "affine": True},
        "nonlin_kwargs": {"inplace": True, "negative_slope": 0.2},
    }
    torch.manual_seed(0)
    classes = {"conv_op": torch.nn.Conv3d, "norm_op": getattr(torch.nn, norm), "nonlin": torch.nn.LeakyReLU}
    theirs = getattr(unet, name)(2, num_classes=6, deep_supervision=True, **arguments, **classes)
    theirs(torch.randn(2, 2, 8, 16, 16))  # batch norms learn means
    theirs.eval()
    theirs.decoder.deep_supervision = False
    # a trainer's class may put batch norms where the plans say instance norms
    named = {"conv_op": "torch.nn.Conv3d", "norm_op": "torch.nn.InstanceNorm3d", "nonlin": "torch.nn.LeakyReLU"}
    both = {"network_class_name": f"a.b.{name}", "arch_kwargs": arguments | named}
    configuration(
        lambda entry: entry.update(
            architecture=both, normalization_schemes=["ZScoreNormalization"] * 2, use_mask_for_norm=[False] * 2
        )
    )(folder)
    dataset(lambda content: content.update(channel_names={"0": "T1", "1": "T2"}))(folder)
    weights(lambda content: content.update(network_weights=theirs.state_dict()))(folder)
    made = import_nnunet(folder, tmp_path / "bundle")
    assert made.network.endswith(f".{name}")
    config = InferenceConfig(find_bundle(tmp_path / "bundle"))
    ours = config.load_network(config.checkpoints[0])
    scan = torch.randn(1, 2, 8, 16, 16)  # along nnU-Net's axes, whose transpose is (1, 0, 2)
    turned = scan.permute(0, 1, 4, 2, 3)  # file axis i is nnU-Net's last, j its first
    with torch.no_grad():
        torch.testing.assert_close(ours(turned), theirs(scan).permute(0, 1, 4, 2, 3), rtol=1e-4, atol=1e-5)

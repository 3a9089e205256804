"""The configs of a planned bundle that train it: train.json and multi_gpu_train.json."""

from __future__ import annotations

from typing import Any

from tomoseg.planning import data_config, negatives
from tomoseg.planning.augmentation import labelled_augmentation
from tomoseg.planning.data_config import KEYS, Json
from tomoseg.planning.inference_config import DEVICE, IMPORTS, JOIN, LEAVE, LOCAL_DEVICE, OWN_GPU, distributed
from tomoseg.planning.layout import Layout
from tomoseg.planning.loss_config import loss_entries
from tomoseg.planning.rules import Plan

MAX_CENTRES_PER_LABEL = 10_000  # voxels of each label from which the middle of a crop is drawn
FAST_CUDNN = [
    "$setattr(torch.backends.cudnn, 'deterministic', False)",
    "$setattr(torch.backends.cudnn, 'benchmark', True)",
]
HOOKS = [
    "$@optimizer.register_step_pre_hook("
    "lambda *_: (torch.nn.utils.clip_grad_norm_(@network.parameters(), @gradient_clip), None)[1])",
    "$@optimizer.register_step_post_hook(lambda *_: @ema.update_parameters(@network_def))",
]


def train_config(plan: Plan, layout: Layout, name: str, dataset: str) -> Json:
    """Return train.json.

    Args:
        plan: what was decided.
        layout: how the dataset's files are named.
        name: of the bundle's folder.
        dataset: name of the dataset's folder.
    """
    return {
        "imports": ["$import itertools", *IMPORTS],
        "bundle_root": data_config.bundle_root(name),
        "dataset_dir": f"data/{dataset}",
        "ckpt_dir": "$@bundle_root + '/train'",
        "seed": 0,
        "fold": data_config.default_fold(layout),
        "epochs": f"${plan.epochs['cuda']} if @device.type == 'cuda' else {plan.epochs['cpu']}",
        "steps": plan.steps,
        "batch_size": plan.batch,
        "learning_rate": 0.001,
        "gradient_clip": 12.0,
        "ema_decay": 0.999,
        "val_interval": 10,
        "amp": True,
        "num_workers": "$min(8, max(1, (os.cpu_count() or 1) // 2)) if @cache_device == 'cpu' else 0",
        "cache_device": "cpu",
        "device": DEVICE,
        "amp_dtype": "$torch.float16 if @device.type == 'cuda' and "
        "not torch.cuda.is_bf16_supported(including_emulation=False) else torch.bfloat16",
        "memory_format": "$torch.channels_last_3d if @device.type == 'cpu' else torch.contiguous_format",
        "network_def": plan.network.config(supervised=True),
        "network": "$@network_def.to(@device, memory_format=@memory_format)",
        "ema": {
            "_target_": "torch.optim.swa_utils.AveragedModel",
            "model": "$@network_def.to(@device, memory_format=@memory_format)",
            # a short memory at first, so that the first steps are soon forgotten
            "avg_fn": "$lambda average, current, steps: "
            "torch.lerp(average, current, (9 / (10 + steps)).clamp(min=1 - @ema_decay))",
        },
        "inference_weights": "$type('InferenceWeights', (), {'state_dict': lambda _: {k: v for k, v in "
        "@ema.module.state_dict().items() if 'super_head' not in k and 'deep_supervision_heads' not in k}})()",
        "optimizer": {
            "_target_": "torch.optim.AdamW",
            "params": "$@network.parameters()",
            "lr": "@learning_rate",
            "weight_decay": 0.01,
        },
        "lr_scheduler": {
            "_target_": "torch.optim.lr_scheduler.PolynomialLR",
            "optimizer": "@optimizer",
            "total_iters": "@epochs",
            "power": 0.9,
        },
        **loss_entries(plan),
        "patch_size": list(plan.patch),
        "crop_size": list(plan.crop),
        "image_key": "image",
        "label_key": "label",
        **data_config.cases(plan, layout),
        "train_cases": "$[c for c, i in zip(@cases, @case_ids) if not isinstance(@fold, int) or i not in @val_ids]",
        **negatives.negative_entries(),
        "val_cases": "$@validation_cases if @fold == 'validation' else "
        "[c for c, i in zip(@cases, @case_ids) if i in @val_ids]",
        "train": {
            "deterministic_transforms": _deterministic(plan),
            "cached_transforms": _cached(plan),
            "random_transforms": labelled_augmentation(plan),
            "preprocessing": {
                "_target_": "Compose",
                "transforms": "$@train::deterministic_transforms + @train::cached_transforms + "
                "@train::random_transforms",
            },
            "dataset": _dataset("$@train_cases + @negatives", "train"),
            "sampler": negatives.sampler(),
            "dataloader": {
                "_target_": "DataLoader",
                "dataset": "@train::dataset",
                "batch_size": "@batch_size",
                "sampler": "@train::sampler",
                "num_workers": "@num_workers",
            },
            "inferer": "$torch.autocast(@device.type, dtype=@amp_dtype, enabled=@amp)(monai.inferers.SimpleInferer())",
            "handlers": [
                {"_target_": "LrScheduleHandler", "lr_scheduler": "@lr_scheduler", "print_lr": False},
                {
                    "_target_": "ValidationHandler",
                    "validator": "@validate::evaluator",
                    "interval": "@val_interval",
                    "epoch_level": True,
                },
                {
                    "_target_": "StatsHandler",
                    "tag_name": "train_loss",
                    "iteration_log": "$lambda engine, _: engine.state.iteration % engine.state.epoch_length == 0",
                    "output_transform": "$monai.handlers.from_engine(['loss'], first=True)",
                },
                {
                    "_target_": "CheckpointSaver",
                    "save_dir": "@ckpt_dir",
                    "save_dict": {"model": "@inference_weights"},
                    "save_final": True,
                    "final_filename": "model.pt",
                },
            ],
            "trainer": {
                "_target_": "SupervisedTrainer",
                "max_epochs": "@epochs",
                "device": "@device",
                "train_data_loader": "@train::dataloader",
                "network": "@network",
                "loss_function": "@loss",
                "optimizer": "@optimizer",
                "inferer": "@train::inferer",
                "train_handlers": "@train::handlers",
                "decollate": False,
                "amp": "$@amp and @amp_dtype == torch.float16",
            },
        },
        "validate": _validate(plan),
        "initialize": ["$monai.utils.set_determinism(seed=@seed)", *FAST_CUDNN, *HOOKS],
        "run": ["$@train::trainer.run()"],
    }


def multi_gpu_train_config() -> Json:
    """Return multi_gpu_train.json, which goes over train.json."""
    quiet = "logger.setLevel('INFO' if @rank == 0 else 'WARNING')"
    return {
        "device": LOCAL_DEVICE,
        "rank": "$torch.distributed.get_rank()",
        "world_size": "$torch.distributed.get_world_size()",
        "network": distributed("$@network_def.to(@device, memory_format=@memory_format)"),
        "train::dataset::data": "$monai.data.partition_dataset(@train_cases, num_partitions=@world_size, shuffle=True, "
        "seed=@seed, even_divisible=True)[@rank] + @negatives",
        "validate::dataset::data": "$monai.data.partition_dataset(@val_cases, num_partitions=@world_size, "
        "even_divisible=False)[@rank]",
        "train::handlers::2::_disabled_": "$@rank > 0",
        "validate::handlers::0::_disabled_": "$@rank > 0",
        "initialize": [
            JOIN,
            OWN_GPU,
            "$monai.utils.set_determinism(seed=@seed + @rank)",
            *FAST_CUDNN,
            *HOOKS,
            f"$@train::trainer.{quiet}",
            f"$@validate::evaluator.{quiet}",
        ],
        "finalize": LEAVE,
    }


def _deterministic(plan: Plan) -> list[Any]:
    return [
        *data_config.load(plan, KEYS),
        negatives.without_labels(),
        *data_config.spatial(plan, KEYS),
        *data_config.label_values(plan, "@label_key"),
        data_config.intensities(plan, "@image_key"),
        {
            "_target_": "EnsureTyped",
            "keys": KEYS,
            "dtype": ["$torch.float32", _label_type(plan)],
            "track_meta": False,
        },
        *data_config.drawn_only(plan, "@label_key"),
    ]


def _label_type(plan: Plan) -> str:
    """Return what holds the rows of `possible`, of which there is one for each set of labels that were drawn."""
    if plan.masked:
        return "$torch.uint8 if len(@possible) < 256 else torch.int16"
    return "$torch.uint8" if plan.network.scores < 256 else "$torch.int16"


def _cached(plan: Plan) -> list[Any]:
    """Return what is done once a case, in training only."""
    scores = plan.network.scores
    steps: list[Any] = [*data_config.pad(plan, KEYS, "@crop_size")]
    if plan.cut:
        steps.append(
            {
                "_target_": "ClassesToIndicesd",
                "keys": "@label_key",
                "num_classes": scores,
                "max_samples_per_class": MAX_CENTRES_PER_LABEL,
            }
        )
    if plan.partial:
        steps.append(
            data_config.change(
                "@label_key: torch.where(data[@label_key] == 0, "
                f"{scores + 1} + data.get('drawn', @all_drawn), data[@label_key])"
            )
        )
    steps.append({"_target_": "EnsureTyped", "keys": KEYS, "device": "@cache_device", "track_meta": False})
    return steps


def _dataset(cases: str, part: str) -> Json:
    return {
        "_target_": "CacheDataset",
        "data": cases,
        "transform": f"@{part}::preprocessing",
        "cache_rate": 1.0,
        "num_workers": 2,
        "progress": False,
    }


def _validate(plan: Plan) -> Json:
    return {
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Compose", "transforms": "@train::deterministic_transforms"},
                *data_config.pad(plan, KEYS, "@patch_size"),
                *data_config.forget_ignored(plan, "@label_key"),
            ],
        },
        "dataset": _dataset("@val_cases", "validate"),
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@validate::dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": data_config.inferer(plan, "@patch_size"),
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "AsDiscreted",
                    "keys": ["pred", "@label_key"],
                    "argmax": [True, False],
                    "to_onehot": plan.network.scores,
                },
                *data_config.score_known(plan, "@label_key"),
            ],
        },
        "key_metric": {
            "val_mean_dice": {
                "_target_": "MeanDice",
                "include_background": False,
                "output_transform": "$monai.handlers.from_engine(['pred', @label_key])",
            }
        },
        "additional_metrics": data_config.dice_of_each(plan, "@label_key"),
        "handlers": [
            {"_target_": "StatsHandler", "iteration_log": False},
            {
                "_target_": "CheckpointSaver",
                "save_dir": "@ckpt_dir",
                "save_dict": {"model": "@inference_weights"},
                "save_key_metric": True,
                "key_metric_filename": "model_best.pt",
            },
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@validate::dataloader",
            "network": "@ema",
            "inferer": "@validate::inferer",
            "postprocessing": "@validate::postprocessing",
            "key_val_metric": "@validate::key_metric",
            "additional_metrics": "@validate::additional_metrics",
            "val_handlers": "@validate::handlers",
            "amp": "$@device.type == 'cuda'",
        },
    }

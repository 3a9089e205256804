"""The configs of a planned bundle that train it: train.json and multi_gpu_train.json."""

from tomoseg.bundle.configs import Json, component, compose
from tomoseg.bundle.planned import TrainEntry
from tomoseg.planning import data_config, negatives
from tomoseg.planning.augmentation import labelled_augmentation
from tomoseg.planning.data_config import KEYS
from tomoseg.planning.inference_config import DEVICE, IMPORTS, JOIN, LEAVE, LOCAL_DEVICE, OWN_GPU, distributed
from tomoseg.planning.layout import Layout
from tomoseg.planning.loss_config import loss_entries
from tomoseg.planning.rules import TrainingPlan

MAX_CENTRES_PER_LABEL = 10_000  # voxels of each label from which the middle of a crop is drawn
FAST_CUDNN = [
    "$setattr(torch.backends.cudnn, 'deterministic', False)",
    "$setattr(torch.backends.cudnn, 'benchmark', True)",
]
SAVER = component("CheckpointSaver", save_dir="@ckpt_dir", save_dict={"model": "@inference_weights"})
HOOKS = [
    "$@optimizer.register_step_pre_hook("
    "lambda *_: (torch.nn.utils.clip_grad_norm_(@network.parameters(), @gradient_clip), None)[1])",
    "$@optimizer.register_step_post_hook(lambda *_: @ema.update_parameters(@network_def))",
]


def train_config(plan: TrainingPlan, layout: Layout, name: str, dataset: str) -> Json:
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
        TrainEntry.CHECKPOINT_FOLDER: "$@bundle_root + '/train'",
        TrainEntry.SEED: 0,
        TrainEntry.FOLD: data_config.default_fold(layout),
        TrainEntry.EPOCHS: f"${plan.epochs['cuda']} if @device.type == 'cuda' else {plan.epochs['cpu']}",
        TrainEntry.STEPS: plan.steps,
        TrainEntry.BATCH_SIZE: plan.batch,
        "learning_rate": 0.001,
        "gradient_clip": 12.0,
        "ema_decay": 0.999,
        TrainEntry.VALIDATION_INTERVAL: 10,
        "amp": True,
        TrainEntry.NUM_WORKERS: "$min(8, max(1, (os.cpu_count() or 1) // 2)) if @cache_device == 'cpu' else 0",
        TrainEntry.CACHE_DEVICE: "cpu",
        "device": DEVICE,
        "amp_dtype": "$torch.float16 if @device.type == 'cuda' and "
        "not torch.cuda.is_bf16_supported(including_emulation=False) else torch.bfloat16",
        "memory_format": "$torch.channels_last_3d if @device.type == 'cpu' else torch.contiguous_format",
        "network_def": plan.network.config(supervised=True),
        "network": "$@network_def.to(@device, memory_format=@memory_format)",
        "ema": component(
            "torch.optim.swa_utils.AveragedModel",
            model="$@network_def.to(@device, memory_format=@memory_format)",
            # a short memory at first, so that the first steps are soon forgotten
            avg_fn="$lambda average, current, steps: "
            "torch.lerp(average, current, (9 / (10 + steps)).clamp(min=1 - @ema_decay))",
        ),
        TrainEntry.WEIGHTS: "$type('InferenceWeights', (), {'state_dict': lambda _: {k: v for k, v in "
        "@ema.module.state_dict().items() if 'super_head' not in k and 'deep_supervision_heads' not in k}})()",
        "optimizer": component(
            "torch.optim.AdamW", params="$@network.parameters()", lr="@learning_rate", weight_decay=0.01
        ),
        "lr_scheduler": component(
            "torch.optim.lr_scheduler.PolynomialLR", optimizer="@optimizer", total_iters="@epochs", power=0.9
        ),
        **loss_entries(plan),
        "patch_size": list(plan.patch),
        TrainEntry.CROP_SIZE: list(plan.crop),
        "image_key": "image",
        "label_key": "label",
        **data_config.cases(plan, layout),
        TrainEntry.TRAIN_CASES: "$[c for c, i in zip(@cases, @case_ids) "
        "if not isinstance(@fold, int) or i not in @val_ids]",
        **negatives.negative_entries(),
        TrainEntry.VALIDATION_CASES: "$@validation_cases if @fold == 'validation' else "
        "[c for c, i in zip(@cases, @case_ids) if i in @val_ids]",
        "train": {
            "deterministic_transforms": _deterministic(plan),
            "cached_transforms": _cached(plan),
            "random_transforms": labelled_augmentation(plan),
            "preprocessing": component(
                "Compose",
                transforms="$@train::deterministic_transforms + @train::cached_transforms + @train::random_transforms",
            ),
            "dataset": data_config.cached_dataset("$@train_cases + @negatives", "train"),
            "sampler": negatives.sampler(),
            "dataloader": data_config.batches("train"),
            "inferer": "$torch.autocast(@device.type, dtype=@amp_dtype, enabled=@amp)(monai.inferers.SimpleInferer())",
            "handlers": [
                component("LrScheduleHandler", lr_scheduler="@lr_scheduler", print_lr=False),
                component(
                    "ValidationHandler", validator="@validate::evaluator", interval="@val_interval", epoch_level=True
                ),
                component(
                    "StatsHandler",
                    tag_name="train_loss",
                    iteration_log="$lambda engine, _: engine.state.iteration % engine.state.epoch_length == 0",
                    output_transform="$monai.handlers.from_engine(['loss'], first=True)",
                ),
                SAVER | {"save_final": True, "final_filename": "model.pt"},
            ],
            "trainer": component(
                "SupervisedTrainer",
                max_epochs="@epochs",
                device="@device",
                train_data_loader="@train::dataloader",
                network="@network",
                loss_function="@loss",
                optimizer="@optimizer",
                inferer="@train::inferer",
                train_handlers="@train::handlers",
                decollate=False,
                amp="$@amp and @amp_dtype == torch.float16",
            ),
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


def _deterministic(plan: TrainingPlan) -> list[Json]:
    return [
        *data_config.load(plan, KEYS),
        negatives.without_labels(),
        *data_config.spatial(plan, KEYS),
        *data_config.label_values(plan, "@label_key"),
        data_config.intensities(plan, "@image_key"),
        component("EnsureTyped", keys=KEYS, dtype=["$torch.float32", _label_type(plan)], track_meta=False),
        *data_config.drawn_only(plan, "@label_key"),
    ]


def _label_type(plan: TrainingPlan) -> str:
    """Return what holds the rows of `possible`, of which there is one for each set of labels that were drawn."""
    if plan.masked:
        return "$torch.uint8 if len(@possible) < 256 else torch.int16"
    return "$torch.uint8" if plan.network.out_channels < 256 else "$torch.int16"


def _cached(plan: TrainingPlan) -> list[Json]:
    """Return what is done once a case, in training only."""
    scores = plan.network.out_channels
    places = component(
        "ClassesToIndicesd", keys="@label_key", num_classes=scores, max_samples_per_class=MAX_CENTRES_PER_LABEL
    )
    undrawn = data_config.change(
        f"@label_key: torch.where(data[@label_key] == 0, {scores + 1} + "
        "data.get('drawn', @all_drawn), data[@label_key])"
    )
    return [
        *data_config.pad(plan, KEYS, "@crop_size"),
        *([places] if plan.cut else []),
        *([undrawn] if plan.partial else []),
        component("EnsureTyped", keys=KEYS, device="@cache_device", track_meta=False),
    ]


def _validate(plan: TrainingPlan) -> Json:
    return {
        "preprocessing": compose(
            component("Compose", transforms="@train::deterministic_transforms"),
            *data_config.pad(plan, KEYS, "@patch_size"),
            *data_config.forget_ignored(plan, "@label_key"),
        ),
        "dataset": data_config.cached_dataset("@val_cases", "validate"),
        "dataloader": component("DataLoader", dataset="@validate::dataset", batch_size=1, shuffle=False, num_workers=0),
        "inferer": data_config.inferer(plan, "@patch_size"),
        "postprocessing": compose(*data_config.prediction_and_label(plan, "@label_key")),
        "key_metric": data_config.mean_dice("@label_key"),
        "additional_metrics": data_config.dice_of_each(plan, "@label_key"),
        "handlers": [
            component("StatsHandler", iteration_log=False),
            SAVER | {"save_key_metric": True, "key_metric_filename": "model_best.pt"},
        ],
        "evaluator": component(
            "SupervisedEvaluator",
            device="@device",
            val_data_loader="@validate::dataloader",
            network="@ema",
            inferer="@validate::inferer",
            postprocessing="@validate::postprocessing",
            key_val_metric="@validate::key_metric",
            additional_metrics="@validate::additional_metrics",
            val_handlers="@validate::handlers",
            amp="$@device.type == 'cuda'",
        ),
    }

"""The configs of a planned bundle that run its weights: inference.json, evaluate.json, multi_gpu_evaluate.json."""

from tomoseg.bundle.configs import Json, checkpoint_loader, component, compose
from tomoseg.planning import data_config
from tomoseg.planning.layout import Layout
from tomoseg.planning.rules import TrainingPlan

IMPORTS = ["$import json", "$import os", "$import monai", "$import torch"]
DEVICE = "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')"
LOCAL_DEVICE = (
    "$torch.device('cuda', int(os.environ['LOCAL_RANK'])) if torch.cuda.is_available() else torch.device('cpu')"
)
JOIN = (
    "$torch.distributed.is_initialized() or "
    "torch.distributed.init_process_group('nccl' if @device.type == 'cuda' else 'gloo')"
)
OWN_GPU = "$torch.cuda.set_device(@device) if @device.type == 'cuda' else None"
INVERT = component(
    "Invertd", keys="pred", transform="@preprocessing", orig_keys="image", nearest_interp=False, to_tensor=True
)
LOADING = {
    "dataset": component("Dataset", data="@datalist", transform="@preprocessing"),
    "dataloader": component("DataLoader", dataset="@dataset", batch_size=1, shuffle=False, num_workers="@num_workers"),
}
EVALUATOR = component(
    "SupervisedEvaluator",
    device="@device",
    val_data_loader="@dataloader",
    network="@network",
    inferer="@inferer",
    postprocessing="@postprocessing",
    val_handlers="@handlers",
    amp=False,
)
RUN = {"initialize": ["$monai.utils.set_determinism(seed=0)"], "run": ["$@evaluator.run()"]}
LEAVE = ["$torch.distributed.barrier()", "$torch.distributed.destroy_process_group()"]


def inference_config(plan: TrainingPlan, layout: Layout, name: str, dataset: str) -> Json:
    """Return inference.json.

    Args:
        plan: what was decided.
        layout: how the dataset's files are named.
        name: of the bundle's folder.
        dataset: name of the dataset's folder.
    """
    return {
        "imports": [item for item in IMPORTS if "json" not in item],
        "bundle_root": data_config.bundle_root(name),
        "dataset_dir": f"data/{dataset}/imagesTs",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": data_config.scans_to_segment(layout),
        **_network(plan),
        "preprocessing": compose(*data_config.scan(plan, "image")),
        **LOADING,
        "inferer": data_config.inferer(plan, list(plan.patch)),
        "mirror_axes": list(plan.mirror_axes),
        "postprocessing": compose(
            INVERT,
            component("AsDiscreted", keys="pred", argmax=True),
            component(
                "SaveImaged",
                keys="pred",
                output_dir="@output_dir",
                output_postfix="seg",
                output_ext=".nii.gz",
                output_dtype="uint8",
                data_root_dir="@dataset_dir",
                separate_folder=False,
                resample=False,
            ),
        ),
        "handlers": [checkpoint_loader("@checkpoint", "@network")],
        "evaluator": EVALUATOR,
        **RUN,
    }


def evaluate_config(plan: TrainingPlan, layout: Layout, name: str, dataset: str) -> Json:
    """Return evaluate.json; the arguments are those of `inference_config`."""
    return {
        "imports": IMPORTS,
        "bundle_root": data_config.bundle_root(name),
        "dataset_dir": f"data/{dataset}",
        "output_dir": "$@bundle_root + '/eval'",
        "fold": data_config.default_fold(layout),
        **data_config.cases(plan, layout),
        "datalist": "$@validation_cases if @fold == 'validation' else "
        "[c for c, i in zip(@cases, @case_ids) if not isinstance(@fold, int) or i in @val_ids]",
        **_network(plan),
        "preprocessing": compose(
            *data_config.load(plan, ["image", "label"]),
            *data_config.spatial(plan, ["image"]),
            data_config.intensities(plan, "image"),
            *data_config.label_values(plan, "label"),
            *data_config.drawn_only(plan, "'label'"),
            *data_config.forget_ignored(plan, "'label'"),
        ),
        **LOADING,
        "inferer": data_config.inferer(plan, list(plan.patch)),
        "postprocessing": compose(INVERT, *data_config.prediction_and_label(plan, "label")),
        "key_metric": data_config.mean_dice("'label'"),
        "hausdorff95_mm": "$lambda pred, label: monai.metrics.compute_hausdorff_distance("
        "pred, label, percentile=95, spacing=label.pixdim.tolist())",
        "additional_metrics": {
            **data_config.dice_of_each(plan, "'label'"),
            "val_hausdorff95_mm": component(
                "monai.handlers.IgniteMetricHandler",
                metric_fn=component("monai.metrics.LossMetric", loss_fn="@hausdorff95_mm"),
                output_transform="$monai.handlers.from_engine(['pred', 'label'])",
            ),
        },
        "handlers": [
            checkpoint_loader("@checkpoint", "@network"),
            component("StatsHandler", iteration_log=False),
            component(
                "MetricsSaver",
                save_dir="@output_dir",
                metrics="*",
                metric_details=["val_mean_dice", "val_hausdorff95_mm"],
                batch_transform="$lambda batch: [item['image'].meta for item in batch]",
                summary_ops="*",
            ),
        ],
        "evaluator": EVALUATOR | {"key_val_metric": "@key_metric", "additional_metrics": "@additional_metrics"},
        **RUN,
    }


def multi_gpu_evaluate_config() -> Json:
    """Return multi_gpu_evaluate.json, which goes over evaluate.json."""
    return {
        "device": LOCAL_DEVICE,
        "rank": "$torch.distributed.get_rank()",
        "network": distributed("$@network_def.to(@device)"),
        "sampler": component("DistributedSampler", dataset="@dataset", even_divisible=False, shuffle=False),
        "dataloader::sampler": "@sampler",
        "handlers::1::_disabled_": "$@rank > 0",
        "initialize": [
            JOIN,
            OWN_GPU,
            "$monai.utils.set_determinism(seed=0)",
            "$@evaluator.logger.setLevel('INFO' if @rank == 0 else 'WARNING')",
        ],
        "finalize": LEAVE,
    }


def distributed(network: str) -> Json:
    """Return a network that averages its gradients over all processes."""
    return component(
        "torch.nn.parallel.DistributedDataParallel",
        module=network,
        device_ids="$[@device] if @device.type == 'cuda' else None",
    )


def _network(plan: TrainingPlan) -> Json:
    return {
        "num_workers": 0,
        "device": DEVICE,
        "network_def": plan.network.config(supervised=False),
        "network": "$@network_def.to(@device)",
        "checkpoint": "$@bundle_root + '/models/model.pt'",
    }

"""The config of a planned bundle that goes over train.json where most scans have no label map: semi_supervised.json.

A mean teacher (Tarvainen and Valpola, NeurIPS 2017): the moving average of the network that train.json keeps labels
scans without label map, and the network learns from its labels as from those of people, by the loss of train.json. Both
see the scan in the same place, turned and mirrored alike, but only the network that learns sees it with its values
changed (FixMatch; Sohn et al., NeurIPS 2020). The squared difference of their scores, as of UA-MT (Yu et al., MICCAI
2019), came to 2 % of that loss, and the network to less than without.
"""

from tomoseg.bundle.configs import Json, component, compose
from tomoseg.bundle.planned import TrainEntry
from tomoseg.data.formats import VOLUME_SUFFIXES
from tomoseg.planning import data_config
from tomoseg.planning.augmentation import unlabelled_augmentation
from tomoseg.planning.rules import TrainingPlan

IMAGE, STUDENT = "@image_key", "student"
RAMP_UP_SHARE = 0.3  # of the training, during which the teacher comes to count


def semi_supervised_config(plan: TrainingPlan) -> Json:
    """Return semi_supervised.json, which goes over train.json.

    Args:
        plan: what was decided.
    """
    return {
        "unlabelled_dir": "data/unlabelled",
        TrainEntry.UNLABELLED_FILES: "$sorted(os.path.join(folder, name) for folder, _, names in "
        f"os.walk(@unlabelled_dir) for name in names if name.endswith({VOLUME_SUFFIXES}) and not name.startswith('.'))",
        "unlabelled_weight": 1.0,
        "ramp_up": f"${RAMP_UP_SHARE} * @epochs * @steps",
        "unlabelled": {
            "cases": "$[{@image_key: path} for path in @unlabelled_files]",
            "preprocessing": compose(
                *data_config.scan(plan, IMAGE),
                *data_config.pad(plan, [IMAGE], "@crop_size"),
                component("EnsureTyped", keys=IMAGE, dtype="$torch.float32", device="@cache_device", track_meta=False),
                *unlabelled_augmentation(plan, IMAGE, STUDENT),
            ),
            "part": "$monai.data.partition_dataset(@unlabelled::cases, num_partitions=torch.distributed."
            "get_world_size(), shuffle=True, seed=@seed, even_divisible=True)[torch.distributed.get_rank()] "
            "if torch.distributed.is_available() and torch.distributed.is_initialized() else @unlabelled::cases",
            "dataset": data_config.cached_dataset("@unlabelled::part", "unlabelled"),
            "sampler": component(
                "torch.utils.data.RandomSampler",
                data_source="@unlabelled::dataset",
                num_samples="$@steps * @batch_size",
                generator="$torch.Generator().manual_seed(@seed + 1)",
            ),
            "dataloader": data_config.batches("unlabelled"),
            "both": "$type('Both', (), {'__len__': lambda _: len(@train::dataloader), "
            "'__iter__': lambda _: zip(@train::dataloader, @unlabelled::dataloader)})()",
            "teacher": "$@ema.eval()",  # a validation leaves it so
            "guesses": "$torch.no_grad()(lambda images: "
            "@train::inferer(images, @unlabelled::teacher).argmax(1, keepdim=True))",
            # exp(-5 (1 - t)^2), t from 0 to 1 (Laine and Aila, ICLR 2017); the average counts its updates itself, so
            # that a training that was interrupted goes on where it was
            "weight": "$lambda: @unlabelled_weight * "
            "torch.exp(-5 * (1 - (@ema.n_averaged / @ramp_up).clamp(max=1)) ** 2)",
            # labelled windows come first, then as many others
            "loss": "$lambda pred, target: @loss(pred[:len(target[0])], target[0]) + @unlabelled::weight() * "
            "@loss(pred[len(target[0]):], target[1])",
        },
        "train::trainer::train_data_loader": "@unlabelled::both",
        "train::trainer::prepare_batch": "$lambda batch, device, *_, **__: ("
        f"torch.cat([batch[0][@image_key].to(device), batch[1]['{STUDENT}'].to(device)]), "
        "(batch[0][@label_key].to(device), @unlabelled::guesses(batch[1][@image_key].to(device))))",
        "train::trainer::loss_function": "@unlabelled::loss",
    }

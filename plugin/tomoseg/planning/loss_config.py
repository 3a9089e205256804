"""The loss of a planned bundle's training: on every level, over what each voxel may be."""

from tomoseg.bundle.configs import Json, component
from tomoseg.planning.rules import TrainingPlan

SMOOTHING = 1e-05  # nnU-Net's
GAMMA = 2.0  # Lin et al., Focal Loss for Dense Object Detection, ICCV 2017
# Salehi et al., Tversky loss function for image segmentation, MLMI 2017: what is missed costs more than a false alarm
FALSE_POSITIVES, FALSE_NEGATIVES = 0.3, 0.7


def loss_entries(plan: TrainingPlan) -> Json:
    """Return the entries of train.json from `label` and the network's levels to one number.

    The network repeats the scores of a coarser level so that all levels have the window's shape, and a loss of repeated
    scores is that of each of them with the mean of its voxels' targets. So each level is taken at its own resolution,
    which gives the same number in a quarter of the time (measured on 2 cores with 6 scores and 4 levels).
    """
    levels = range(plan.network.heads + 1)
    steps = [[1, 1, 1]]
    for stride in plan.network.strides[1 : len(levels)]:
        steps.append([before * by for before, by in zip(steps[-1], stride, strict=True)])
    entries = _marginal(plan) if plan.masked else _plain(plan)
    return entries | {
        "level_steps": steps,
        "level_strides": [list(stride) for stride in plan.network.strides[1 : len(levels)]],
        "targets": "$lambda label: itertools.accumulate("
        "@level_strides, torch.nn.functional.avg_pool3d, initial=@target(label))",
        "loss": "$lambda pred, label: sum("
        "@level_loss(scores[:, :, ::i, ::j, ::k].float(), target) / 2**level "
        "for level, (scores, target, (i, j, k)) in "
        "enumerate(zip(torch.unbind(pred, dim=1), @targets(label), @level_steps)))",
    }


def _plain(plan: TrainingPlan) -> Json:
    options = {
        "include_background": False,
        "softmax": True,
        "smooth_nr": SMOOTHING,
        "smooth_dr": SMOOTHING,
        "batch": plan.cut,  # nnU-Net's: one Dice for the batch where a window may miss a label
    }
    entries: Json = {"target": f"$lambda label: monai.networks.one_hot(label, {plan.network.out_channels})"}
    if plan.loss == "dice-ce":
        return entries | {"level_loss": component("DiceCELoss", **options)}
    if plan.loss == "tversky":
        return entries | {
            "tversky": component("TverskyLoss", **options, alpha=FALSE_POSITIVES, beta=FALSE_NEGATIVES),
            "level_loss": "$lambda scores, target: @tversky(scores, target) + "
            "torch.nn.functional.cross_entropy(scores, target)",
        }
    return entries | {
        "dice": component("DiceLoss", **options),
        **_focal(),
        "level_loss": "$lambda scores, target: @dice(scores, target) + "
        "@focal(scores, target[:, 1:], 1 - target[:, 1:])",
    }


def _marginal(plan: TrainingPlan) -> Json:
    """Return an overlap of what is known, and the cross-entropy of a voxel's label being one that it may be.

    The focal loss asks for each label by itself, so that it leaves out those that are not known.
    """
    scores = plan.network.out_channels
    sets = "[]" if not plan.partial else "[[True, *[not d for d in row]] for row in @drawn]"
    over = (0, 2, 3, 4) if plan.cut else (2, 3, 4)
    entries: Json = {
        # row v tells which labels a voxel of value v may have: itself; any (to be ignored); background or what was
        # not drawn in a case
        "possible": f"$torch.tensor([*torch.eye({scores}).bool().tolist(), [True] * {scores}, *{sets}])",
        "several": "$@possible & (@possible.sum(1, keepdim=True) > 1)",
        # what a voxel is, and what it may be besides others
        "rows": "$torch.cat([@possible & ~@several, @several], dim=1).T.float()",
        "target": "$lambda label: @rows.to(label.device)[:, label[:, 0].long()].transpose(0, 1)",
    }
    if plan.loss == "tversky":
        overlap = "tversky"
        entries["tversky"] = (
            f"$lambda p, drawn, unsure: (lambda hit: 1 - (hit + {SMOOTHING}) / "
            f"(hit + {FALSE_POSITIVES} * ((p - unsure).sum({over}) - hit) + "
            f"{FALSE_NEGATIVES} * (drawn.sum({over}) - hit) + {SMOOTHING}))((p * drawn).sum({over}))[..., 1:].mean()"
        )
    else:
        overlap = "dice"
        entries["dice"] = (
            f"$lambda p, drawn, unsure: (1 - (2 * (p * drawn).sum({over}) + {SMOOTHING}) / "
            f"((p - unsure).sum({over}) + drawn.sum({over}) + {SMOOTHING}))[..., 1:].mean()"
        )
    if plan.loss == "dice-focal":
        return entries | {
            **_focal(),
            "marginal": "$lambda scores, drawn, may: (lambda p: @dice(p, drawn, p * may))(torch.softmax(scores, 1)) + "
            "@focal(scores, drawn[:, 1:], (1 - may - drawn)[:, 1:])",
            "level_loss": "$lambda scores, target: @marginal(scores, *target.chunk(2, 1))",
        }
    return entries | {
        "cross_entropy": "$lambda logs, drawn, unsure, share: -((drawn * logs).sum(1) + "
        "share * torch.log((unsure.sum(1) / share.clamp(min=1e-6)).clamp(min=1e-30))).mean()",
        "marginal": f"$lambda logs, drawn, may: (lambda p: @{overlap}(p, drawn, p * may) + "
        "@cross_entropy(logs, drawn, p * may, may.amax(1)))(logs.exp())",
        "level_loss": "$lambda scores, target: @marginal(torch.log_softmax(scores, 1), *target.chunk(2, 1))",
    }


def _focal() -> Json:
    """Return MONAI's focal loss of what is a label and what is none; a coarse voxel may be both, in part."""
    return {
        "focal_of_each": component("FocalLoss", include_background=False, gamma=GAMMA, reduction="none"),
        "focal": "$lambda scores, is_one, is_none: (is_one * @focal_of_each(scores, torch.ones_like(scores)) + "
        "is_none * @focal_of_each(scores, torch.zeros_like(scores))).mean()",
    }

"""The loss where not every label is known: equal to the plain one where it is, and blind where it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.losses import DeepSupervisionLoss, DiceCELoss, DiceFocalLoss, DiceLoss, FocalLoss, TverskyLoss

from support.bundles import parse_config
from support.fingerprints import BUDGET, HIPPOCAMPUS
from support.trainings import write_dataset
from tomoseg.planning.bundle_writer import plan
from tomoseg.planning.configs import loss_entries
from tomoseg.planning.imbalance import LOSSES, LossName
from tomoseg.planning.options import PlanningOptions
from tomoseg.planning.rules import decide

SCORES = 3
DRAWN = [(False, True), (True, False), (True, True)]
KINDS: dict[str, dict[str, Any]] = {"plain": {}, "partial": {"partial": True}, "ignore": {"ignored": 7}}
SHAPE = (16, 16, 8)
SEEDS, ANY = st.integers(0, 10**6), st.sampled_from(list(LOSSES))


def losses(kind: str, cut: bool = False, loss: Any = "dice-ce") -> Any:
    """Return the parsed entries of a plan whose dataset is annotated so far."""
    plan = replace(decide(HIPPOCAMPUS, "MR", replace(BUDGET, loss=loss)), cut=cut, **KINDS[kind])
    parser = ConfigParser({"imports": ["$import itertools", "$import monai", "$import torch"], "drawn": DRAWN})
    parser.update(loss_entries(plan))
    return parser


def level(parser: Any) -> Any:
    target, loss = parser.get_parsed_content("target"), parser.get_parsed_content("level_loss")
    return lambda scores, label: loss(scores, target(label))


def draw(seed: int, most: int = SCORES, shape: tuple[int, ...] = SHAPE) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(2, SCORES, *shape, generator=generator)
    return scores, torch.randint(0, most, (2, 1, *shape), generator=generator)


def plain(loss: str, batch: bool = False) -> Any:
    """MONAI's own, of scores and labels (B, 1, D, H, W)."""
    options: dict[str, Any] = {"smooth_nr": 1e-5, "smooth_dr": 1e-5, "batch": batch, "include_background": False}
    options |= {"to_onehot_y": True, "softmax": True}
    if loss == "dice-ce":
        return DiceCELoss(**options)
    if loss == "dice-focal":
        return DiceFocalLoss(**options, gamma=2.0)
    tversky = TverskyLoss(**options, alpha=0.3, beta=0.7)
    return lambda scores, label: tversky(scores, label) + torch.nn.functional.cross_entropy(scores, label[:, 0].long())


def marginal(loss: str, possible: torch.Tensor, batch: bool) -> Any:
    """MONAI's own over known voxels, and the cross-entropy over possible labels, voxel by voxel."""
    options: dict[str, Any] = {"include_background": False, "smooth_nr": 1e-5, "smooth_dr": 1e-5, "batch": batch}
    overlap = TverskyLoss(**options, alpha=0.3, beta=0.7) if loss == "tversky" else DiceLoss(**options)
    focal = FocalLoss(include_background=False, gamma=2.0, reduction="none")

    def level_loss(scores: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        may = possible[label[:, 0].long()].movedim(-1, 1)
        known = ~may | (may.sum(1, keepdim=True) == 1)
        masked = scores.masked_fill(~may, -torch.inf)
        if loss == "dice-focal":
            entropy = focal(scores, (may & known).float()) * known[:, 1:]
        else:
            entropy = torch.logsumexp(scores, 1) - torch.logsumexp(masked, 1)
        shared: torch.Tensor = overlap(torch.softmax(scores, 1) * known, (may & known).float())
        total: torch.Tensor = shared + entropy.mean()
        return total

    return level_loss


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, kind=st.sampled_from(list(KINDS)), cut=st.booleans(), loss=ANY)
def test_with_all_labels_known_it_is_monais(seed: int, kind: str, cut: bool, loss: str) -> None:
    scores, label = draw(seed)
    torch.testing.assert_close(level(losses(kind, cut, loss))(scores, label), plain(loss, cut)(scores, label.float()))


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, kind=st.sampled_from(["partial", "ignore"]), cut=st.booleans(), loss=ANY)
def test_otherwise_it_is_what_it_says_voxel_by_voxel(seed: int, kind: str, cut: bool, loss: str) -> None:
    parser = losses(kind, cut, loss)
    possible = parser.get_parsed_content("possible")
    scores, label = draw(seed, len(possible))
    torch.testing.assert_close(level(parser)(scores, label), marginal(loss, possible, cut)(scores, label))


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, kind=st.sampled_from(list(KINDS)), cut=st.booleans(), loss=ANY)
def test_each_level_counts_as_if_its_scores_were_repeated(seed: int, kind: str, cut: bool, loss: str) -> None:
    """What MONAI's DeepSupervisionLoss gives for the levels as the network returns them, and the same gradients."""
    parser = losses(kind, cut, loss)
    generator = torch.Generator().manual_seed(seed)
    steps = parser.get_parsed_content("level_steps")
    coarse = [
        torch.randn(2, SCORES, *(size // by for size, by in zip(SHAPE, step, strict=True)), generator=generator)
        for step in steps
    ]
    _, label = draw(seed)
    alone: Any = plain(loss, cut)
    if kind != "plain":
        possible = parser.get_parsed_content("possible")
        alone = marginal(loss, possible, cut)
        # one set of labels was drawn in each case
        hidden = torch.randint(0, 2, label.shape, generator=generator).bool()
        rows = torch.randint(SCORES, len(possible), (2,), generator=generator).view(2, 1, 1, 1, 1)
        label = torch.where(hidden, rows, label)
    gradients = []
    for of in (parser.get_parsed_content("loss"), lambda pred, y: DeepSupervisionLoss(alone)(pred.unbind(1), y)):
        levels = [scores.clone().requires_grad_() for scores in coarse]
        pred = torch.stack([torch.nn.functional.interpolate(scores, SHAPE) for scores in levels], dim=1)
        value = of(pred, label.float())
        value.backward()
        gradients.append([value.detach(), *(scores.grad for scores in levels)])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_the_network_repeats_its_coarser_scores() -> None:
    from monai.networks.nets import DynUNet

    plan = decide(HIPPOCAMPUS, "MR", BUDGET)
    config = plan.network.config(supervised=True) | {"filters": [4] * len(plan.network.strides)}
    config.pop("_target_")
    pred = DynUNet(**config)(torch.randn(1, 1, *plan.patch))
    steps = losses("plain").get_parsed_content("level_steps")
    assert pred.shape[1] == len(steps)
    for scores, step in zip(pred.unbind(1), steps, strict=True):
        coarse = scores[:, :, :: step[0], :: step[1], :: step[2]]
        torch.testing.assert_close(torch.nn.functional.interpolate(coarse, plan.patch), scores, rtol=0, atol=0)


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, loss=ANY)
def test_ignored_voxels_have_no_gradient(seed: int, loss: str) -> None:
    scores, label = draw(seed)
    label[:, :, :3] = SCORES
    scores.requires_grad_()
    level(losses("ignore", loss=loss))(scores, label).backward()
    assert scores.grad is not None
    assert scores.grad[:, :, :3].abs().max() < 1e-7
    assert scores.grad[:, :, 3:].abs().max() > 1e-5


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, loss=ANY)
def test_what_was_not_drawn_is_never_learnt_as_background(seed: int, loss: str) -> None:
    """No voxel of a case in which a label was not drawn lowers the score of that label; those of drawn ones do."""
    scores, label = draw(seed)
    undrawn = SCORES + 1 + DRAWN.index((True, False))  # the first label was drawn in this case, the second was not
    coded = torch.where(label != 1, undrawn, label)
    scores.requires_grad_()
    level(losses("partial", loss=loss))(scores, coded).backward()
    assert scores.grad is not None
    free = (coded == undrawn)[:, 0]
    assert scores.grad[:, 2][free].max() <= 1e-9
    assert scores.grad[:, 1][free].max() > 1e-6


@pytest.mark.parametrize("loss", LOSSES)
def test_of_a_real_batch_only_what_is_known_is_learnt(loss: LossName, tmp_path: Path) -> None:
    """From files to gradients at the finest level, with an ignore label and labels that were not drawn, at once."""
    dataset = write_dataset(tmp_path / "data", partial=True, ignore=True)
    bundle = tmp_path / "bundle"
    plan(dataset, bundle, PlanningOptions(4 * 10**9, "cpu", "small", loss=loss))
    parser = parse_config(bundle, "train", dataset_dir=str(dataset), fold="none", num_workers=0)
    of, possible = level(parser), parser.get_parsed_content("possible")
    seen: set[str] = set()
    for case in parser.get_parsed_content("train::dataset"):
        label = case["label"][None]
        scores = torch.randn(1, SCORES, *label.shape[2:], generator=torch.Generator().manual_seed(0))
        scores.requires_grad_()
        of(scores, label).backward()
        assert scores.grad is not None
        gradient = scores.grad[0].movedim(0, -1)
        choices = possible[label[0, 0].long()]
        anything = choices.all(dim=-1)
        if anything.any():
            seen.add("ignored")
            assert gradient[anything].abs().max() < 1e-7
        for value in range(1, SCORES):
            open_to_it = choices[..., 0] & choices[..., value] & ~anything
            if open_to_it.any():
                seen.add("not drawn")
                assert gradient[open_to_it][..., value].max() <= 1e-9
        assert gradient[~anything].abs().max() > 1e-6
    assert seen == {"ignored", "not drawn"}


@pytest.mark.parametrize("name", LOSSES)
def test_background_may_be_what_was_not_drawn_but_nothing_that_was(name: str) -> None:
    loss = level(losses("partial", loss=name))
    label = torch.full((1, 1, 4, 4, 4), SCORES + 1 + DRAWN.index((True, False)))
    certain = {value: torch.full((1, SCORES, 4, 4, 4), -20.0) for value in range(SCORES)}
    for value, scores in certain.items():
        scores[:, value] = 20.0
    assert loss(certain[0], label) < 1e-3
    assert loss(certain[2], label) < 1e-3, "the second label was not drawn: it may be there"
    assert loss(certain[1], label) > 5, "the first was drawn: it is not there"


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_a_case_with_all_labels_drawn_is_as_any(name: str, cut: bool) -> None:
    loss = level(losses("partial", cut, name))
    scores, label = draw(0)
    coded = torch.where(label == 0, SCORES + 1 + DRAWN.index((True, True)), label)
    torch.testing.assert_close(loss(scores, coded), loss(scores, label))

"""Learning rates against PyTorch's own schedules and lists worked out by hand; what the optimisers are given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, lr_scheduler

from i3d_deploy.training import optimization, recipe
from i3d_deploy.training.recipe import Batch, Recipe, Schedule

RECIPES = Path(__file__).parents[2] / "training" / "recipes"
EPOCHS = 12
STEPS_PER_EPOCH = 5


def shares(spec: Schedule, *, epochs: int = EPOCHS, steps_per_epoch: int = STEPS_PER_EPOCH) -> list[float]:
    """The learning rate of every step of a run."""
    return [
        optimization.lr_share(spec, step=step, steps_per_epoch=steps_per_epoch, total_steps=epochs * steps_per_epoch)
        for step in range(epochs * steps_per_epoch)
    ]


def unit_sgd() -> SGD:
    """An optimiser whose learning rate is its share."""
    return SGD([nn.Parameter(torch.zeros(1))], lr=1.0)


def scheduled(scheduler: lr_scheduler.LRScheduler, *, steps: int) -> list[float]:
    """What a schedule of PyTorch sets for each step."""
    found = []
    for _ in range(steps):
        found.append(float(scheduler.get_last_lr()[0]))
        scheduler.optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("milestones", "gamma"), [((4, 8), 0.1), ((0, 1, 11), 0.5), ((), 0.1), ((3, 3), 0.1)])
def test_steps_are_those_of_multi_step_lr(milestones: tuple[int, ...], gamma: float) -> None:
    reference = lr_scheduler.MultiStepLR(unit_sgd(), milestones=list(milestones), gamma=gamma)
    per_epoch = scheduled(reference, steps=EPOCHS)
    expected = [share for share in per_epoch for _ in range(STEPS_PER_EPOCH)]
    assert shares(Schedule(kind="step", milestones=milestones, gamma=gamma)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("floor", [0.0, 0.01, 1.0])
def test_the_cosine_is_that_of_cosine_annealing_lr(floor: float) -> None:
    steps = EPOCHS * STEPS_PER_EPOCH
    reference = lr_scheduler.CosineAnnealingLR(unit_sgd(), T_max=steps, eta_min=floor)
    expected = scheduled(reference, steps=steps)
    # PyTorch multiplies from step to step, which rounds 60 times.
    assert shares(Schedule(kind="cosine", floor=floor)) == pytest.approx(expected, rel=1e-9)


def test_warm_up_rises_in_a_line() -> None:
    # From a quarter over two epochs of two steps: 0.25 + 0.75 * (0, 1/4, 2/4, 3/4), then all of it.
    spec = Schedule(kind="step", milestones=(3,), gamma=0.1, warmup_epochs=2, warmup_start=0.25)
    found = shares(spec, epochs=4, steps_per_epoch=2)
    assert found == pytest.approx([0.25, 0.4375, 0.625, 0.8125, 1, 1, 0.1, 0.1], rel=1e-12)


def test_warm_up_may_end_within_an_epoch() -> None:
    # Half an epoch of five steps is 2.5 steps: 0.5 + 0.5 * (0, 1/2.5, 2/2.5).
    spec = Schedule(kind="step", milestones=(), warmup_epochs=0.5, warmup_start=0.5)
    assert shares(spec, epochs=1) == pytest.approx([0.5, 0.7, 0.9, 1, 1], rel=1e-12)


def test_warm_up_scales_what_the_schedule_says() -> None:
    # A cosine over four steps is 1, (1 + sqrt(1/2)) / 2, 1/2, (1 - sqrt(1/2)) / 2; the first two are warmed up.
    spec = Schedule(kind="cosine", warmup_epochs=2, warmup_start=0.0)
    expected = [0, 0.5 * 0.8535533905932737, 0.5, 0.14644660940672624]
    assert shares(spec, epochs=4, steps_per_epoch=1) == pytest.approx(expected, rel=1e-12)


# What the authors of the I3D paper published: the first step of each learning rate, and the length of the run.
PAPER = {
    "rgb": ([(0, 0.1), (97_000, 0.01), (108_000, 0.001)], 115_000),
    "flow": ([(0, 0.1), (97_000, 0.01), (104_500, 0.001), (115_000, 0.1), (140_000, 0.01), (150_000, 0.001)], 155_000),
}


@pytest.mark.parametrize("stream", PAPER)
def test_the_recipes_of_the_paper_have_its_learning_rates(stream: str) -> None:
    spec = recipe.load(f"i3d_inception_{stream}_64x1x1_kinetics400", folder=RECIPES)
    rows, total_steps = PAPER[stream]
    assert spec.total_steps(steps_per_epoch=625) == total_steps
    assert spec.batch.videos * 64 == spec.batch.lr_reference == 384
    ends = [first - 1 for first, _ in rows[1:]] + [total_steps - 1]
    for (first, rate), last in zip(rows, ends, strict=True):
        for step in (first, last):
            share = optimization.lr_share(spec.schedule, step=step, steps_per_epoch=625, total_steps=total_steps)
            assert share * optimization.peak_lr(spec, videos_per_step=384) == pytest.approx(rate, rel=1e-12)


def test_a_table_goes_by_steps_and_not_by_epochs() -> None:
    spec = Schedule(kind="table", table=((0, 1), (2, 0.5), (7, 2)))
    assert shares(spec, epochs=2, steps_per_epoch=5) == [1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 2, 2, 2]


@pytest.mark.parametrize("table", [(), ((1, 1.0),), ((0, 1.0), (5, 0.1), (3, 0.01)), ((0, 1.0), (0, 0.1))])
def test_a_table_begins_with_the_first_step_and_ascends(table: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(ValueError, match=r"the steps of table \[.*\] must begin with 0 and ascend"):
        Schedule(kind="table", table=table)


@pytest.mark.parametrize(
    ("videos_per_step", "scale_lr", "expected"),
    [(64, True, 0.01), (128, True, 0.02), (8, True, 0.00125), (128, False, 0.01), (8, False, 0.01)],
)
def test_the_learning_rate_scales_with_the_batch_where_asked(
    small_recipe: Recipe, videos_per_step: int, scale_lr: bool, expected: float
) -> None:
    spec = small_recipe.replaced(batch=Batch(lr_reference=64, scale_lr=scale_lr), optimizer=recipe.Optimizer(lr=0.01))
    assert optimization.peak_lr(spec, videos_per_step=videos_per_step) == pytest.approx(expected, rel=1e-12)


def network() -> nn.Module:
    """Every kind of parameter: weights and biases of convolution, normalisation and classifier."""
    return nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.Flatten(), nn.Linear(4, 2))


def decayed(spec: recipe.Optimizer) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Parameters of ones (before, after) one step whose gradients are zero."""
    net = network()
    for parameter in net.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    optimizer = optimization.make_optimizer(net.parameters(), spec)
    optimizer.step()
    return {name: (before[name], parameter.detach()) for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_weight_decay_reaches_all_parameters(kind: str) -> None:
    # Without a gradient, a step of either takes lr * weight_decay of a parameter off it: 1 - 0.5 * 0.25.
    found = decayed(recipe.Optimizer.model_validate({"kind": kind, "lr": 0.5, "weight_decay": 0.25}))
    assert set(found) == {"0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"}
    for before, after in found.values():
        torch.testing.assert_close(after, 0.875 * before)


def test_sgd_has_the_numbers_of_the_recipe() -> None:
    net = network()
    spec = recipe.Optimizer(lr=0.3, momentum=0.8, nesterov=True, weight_decay=0.02)
    optimizer = optimization.make_optimizer(net.parameters(), spec)
    assert isinstance(optimizer, SGD)
    (group,) = optimizer.param_groups
    assert [group[name] for name in ("lr", "momentum", "nesterov", "weight_decay")] == [0.3, 0.8, True, 0.02]
    assert len(group["params"]) == len(list(net.parameters()))


def test_adamw_has_the_numbers_of_the_recipe() -> None:
    spec = recipe.Optimizer(kind="adamw", lr=0.3, betas=(0.8, 0.95), weight_decay=0.02)
    optimizer = optimization.make_optimizer(network().parameters(), spec)
    assert isinstance(optimizer, AdamW)
    (group,) = optimizer.param_groups
    assert [group[name] for name in ("lr", "betas", "weight_decay")] == [0.3, (0.8, 0.95), 0.02]


def test_momentum_adds_up_as_worked_out_by_hand() -> None:
    # Gradient 1, momentum 0.5, lr 0.1: velocities 1, 1.5, 1.75; positions -0.1, -0.25, -0.425.
    parameter = nn.Parameter(torch.zeros(()))
    spec = recipe.Optimizer(lr=1.0, momentum=0.5, weight_decay=0.0)
    optimizer = optimization.make_optimizer([parameter], spec)
    optimization.set_lr(optimizer, 0.1)
    positions = []
    for _ in range(3):
        parameter.grad = torch.ones(())
        optimizer.step()
        positions.append(parameter.item())
    assert positions == pytest.approx([-0.1, -0.25, -0.425], rel=1e-6)


def test_the_learning_rate_of_all_groups_is_set() -> None:
    optimizer = SGD([{"params": [nn.Parameter(torch.zeros(1))]}, {"params": [nn.Parameter(torch.zeros(1))]}], lr=1.0)
    optimization.set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def with_gradients(*gradients: list[float]) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(len(gradient))) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    return parameters


@pytest.mark.parametrize(
    ("max_norm", "expected"),
    [
        (2.6, [[0.6, 0.8], [2.4]]),  # The norm of (3, 4, 12) is 13.
        (13.5, [[3.0, 4.0], [12.0]]),
        (None, [[3.0, 4.0], [12.0]]),
    ],
)
def test_gradients_are_clipped_by_their_norm_together(max_norm: float | None, expected: list[list[float]]) -> None:
    parameters = with_gradients([3.0, 4.0], [12.0])
    optimization.clip_gradients(parameters, max_norm)
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert parameter.grad is not None
        # PyTorch adds 1e-6 to the norm that it divides by.
        torch.testing.assert_close(parameter.grad, torch.tensor(gradient), rtol=1e-6, atol=0)

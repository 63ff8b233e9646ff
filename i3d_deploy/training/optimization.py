"""The optimiser and the learning rate of a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from i3d_deploy.training import recipe
from i3d_deploy.training.recipe import Recipe


def make_optimizer(parameters: Iterable[nn.Parameter], spec: recipe.Optimizer) -> Optimizer:
    """Build the optimiser; its learning rate is set before each step."""
    if spec.kind == "adamw":
        return AdamW(parameters, lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay)
    return SGD(parameters, lr=spec.lr, momentum=spec.momentum, nesterov=spec.nesterov, weight_decay=spec.weight_decay)


def peak_lr(spec: Recipe, *, videos_per_step: int) -> float:
    """The learning rate at its height, scaled to the batch where the recipe says so.

    Source:
        The linear scaling rule of Goyal et al. 2017, https://arxiv.org/abs/1706.02677.
    """
    factor = videos_per_step / spec.batch.lr_reference if spec.batch.scale_lr else 1.0
    return spec.optimizer.lr * factor


def lr_share(spec: recipe.Schedule, *, step: int, steps_per_epoch: int, total_steps: int) -> float:
    """The learning rate of a step as a share of its height.

    Args:
        spec: The schedule.
        step: Counted from 0 over the whole run.
        steps_per_epoch: Steps of an epoch.
        total_steps: Steps of the run.
    """
    if spec.kind == "step":
        share = spec.gamma ** sum(step // steps_per_epoch >= milestone for milestone in spec.milestones)
    elif spec.kind == "table":
        share = next(share for first, share in reversed(spec.table) if step >= first)
    else:
        progress = step / total_steps
        share = spec.floor + (1 - spec.floor) * (1 + math.cos(math.pi * progress)) / 2
    warmup_steps = spec.warmup_epochs * steps_per_epoch
    if step < warmup_steps:
        share *= spec.warmup_start + (1 - spec.warmup_start) * step / warmup_steps
    return share


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale all gradients together so that their L2 norm is at most ``max_norm``; None leaves them alone.

    Returns:
        (), the norm before.
    """
    parameters = list(parameters)
    if max_norm is not None:
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)

"""The optimiser and the learning-rate schedule of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import cos, pi

import torch
from torch import nn

from pbt_bench.spec import Recipe


def optimizer(recipe: Recipe, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Create SGD with momentum, or AdamW; weight decay applies to all `parameters`."""
    on_gpu = any(parameter.is_cuda for parameter in parameters)
    create: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    if recipe.optimizer == "sgd":
        create = partial(torch.optim.SGD, momentum=recipe.momentum, nesterov=recipe.nesterov)
    return create(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=not on_gpu, fused=on_gpu)


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of `step` (from 0).

    It rises linearly over `warmup_epochs`. After that it is constant, or multiplied by `gamma` at every milestone
    epoch, or follows half a cosine from `learning_rate` to 0.
    """
    warm = recipe.warmup_epochs * steps_per_epoch
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    if recipe.schedule == "multistep":
        epoch = step // steps_per_epoch
        return recipe.learning_rate * recipe.gamma ** sum(epoch >= milestone for milestone in recipe.milestones)
    if recipe.schedule == "cosine":
        total = max(1, recipe.epochs * steps_per_epoch - warm)
        return recipe.learning_rate * (1 + cos(pi * (step - warm) / total)) / 2
    return recipe.learning_rate

"""The library: score, prune, apply and diagnose any `nn.Module`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pbt_bench.constraints import convert
from pbt_bench.errors import RequestError, unknown
from pbt_bench.pruning.diagnosis import diagnose
from pbt_bench.pruning.enforcement import enforce
from pbt_bench.pruning.masks import check_masks
from pbt_bench.pruning.plugins import Method, Pruner, find_pruner, scopes
from pbt_bench.pruning.scoring import NO_OPTIONS, Scorer
from pbt_bench.pruning.torch_prune import to_torch_prune
from pbt_bench.spec import Scoring

__all__ = ["apply", "diagnose", "enforce", "prune", "score", "to_torch_prune"]

BatchIterable = Iterable[tuple[Tensor, Tensor]]
_OF_GRIDS = ("samples_per_class", "most_samples", "batch_size", "augment", "batches", "order", "new_batches")


def score(
    model: nn.Module,
    batches: BatchIterable,
    *,
    method: Method,
    options: Mapping[str, Any] = NO_OPTIONS,
    generator: torch.Generator | None = None,
    **scoring: Any,
) -> dict[str, Tensor]:
    """Return a score per prunable weight (higher is kept); of the first round if the method is iterative.

    `method` is a name, a score function, or the path of a file with one method; `options` are its options. `batches`
    are (inputs, class indices); `scoring` are fields of `Scoring` (fisher_batch_size, batchnorm, prune_classifier,
    ...). Keys are parameter names, tensors have the parameters' shapes. The model comes back bit-identical; one in half
    precision is scored in a float32 copy. Raises RequestError for an unknown method or option, for a method that
    depends on the sparsity, for a model that cannot be scored and for batches that do not fit it; ScoreError for scores
    that are not finite or all exactly zero.
    """
    entry = find_pruner(method)
    scorer, given = _scorer(model, batches, generator, entry, {**options, **scoring})
    return dict(scorer.scores(entry, options=given))


def prune(
    model: nn.Module,
    batches: BatchIterable,
    *,
    method: Method,
    sparsity: float,
    scope: str = "global",
    pattern: str = "none",
    options: Mapping[str, Any] = NO_OPTIONS,
    generator: torch.Generator | None = None,
    **scoring: Any,
) -> dict[str, Tensor]:
    """Return bool masks (True = kept) that prune exactly floor(sparsity · N) of the N prunable weights.

    `scope` is the name of a registered scope, such as "global", "layer" or "erk"; `pattern` is "none", "channel" or
    "N:M", which define the number of pruned weights themselves; the rest as for `score`. The model is not changed: see
    `apply`.
    """
    sparsity = _decimal_sparsity(sparsity)
    scopes()[scope]
    entry = find_pruner(method)
    scorer, given = _scorer(model, batches, generator, entry, {**options, **scoring})
    return scorer.prune(entry, sparsity, scope, options=given, pattern=pattern).masks


def apply(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set every pruned weight of `model` to exactly zero, in place. A later training step changes them: see `enforce`.

    Raises RequestError, naming the tensor, if a mask is not one of the model's or has another shape.
    """
    parameters = check_masks(masks, model)
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask.to(parameters[name].device), 0)


def _decimal_sparsity(given: Any) -> float:
    """Return the decimal number that a sparsity stands for: 0.1 for 1 - 0.9, 0.9 for np.float32(0.9).

    A number is taken for a decimal of few digits (12, or 6 in single precision) if rounding explains the difference.
    """
    number: object = given
    if not isinstance(number, Real):  # numpy's numbers are no subclasses of float
        raise RequestError(f"sparsity = {given!r} must be a number at least 0 and below 1")
    kind = np.finfo(given.dtype if isinstance(given, np.floating) else np.float64)
    sparsity = float(given)
    near = round(sparsity, min(kind.precision, 12))
    if 0 <= near < 1 and abs(near - sparsity) <= kind.eps:
        return near
    if not 0 <= sparsity < 1:
        raise RequestError(f"sparsity = {given!r} must be at least 0 and below 1")
    return sparsity


def _scorer(
    model: nn.Module, batches: BatchIterable, generator: torch.Generator | None, entry: Pruner, given: Mapping[str, Any]
) -> tuple[Scorer, dict[str, Any]]:
    """Return the scorer, and those of the given values that are options of the method."""
    options = {name: given[name] for name in given if name in entry.options}
    scoring = {name: given[name] for name in given if name not in options}
    for name in scoring:
        if name not in Scoring.__struct_fields__:
            valid = {*Scoring.__struct_fields__, *entry.options} - set(_OF_GRIDS)
            raise unknown("scoring field or option", name, sorted(valid), f"method {entry.name!r}")
        if name in _OF_GRIDS:
            raise RequestError(
                f"scoring option {name!r} has no effect here: `batches` decides what is scored, and in what order"
            )
    settings = convert(scoring, Scoring, "scoring")
    if not isinstance(generator, torch.Generator | None):
        raise RequestError(f"generator is {type(generator).__name__}, not a torch.Generator")
    seed = 0 if generator is None else int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return Scorer(model, batches, settings, seed), entry.checked_options(options, "options")

"""The library: score, prune, apply and diagnose any `nn.Module`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from pbt_bench.constraints import convert
from pbt_bench.errors import RequestError, unknown
from pbt_bench.pruning.diagnosis import diagnose
from pbt_bench.pruning.masks import check_masks
from pbt_bench.pruning.scoring import Scorer
from pbt_bench.spec import Scoring

__all__ = ["apply", "diagnose", "prune", "score"]

Batches = Iterable[tuple[Tensor, Tensor]]
_OF_GRIDS = ("samples_per_class", "most_samples", "batch_size", "augment", "batches", "order", "new_batches")


def score(
    model: nn.Module, batches: Batches, *, method: str, generator: torch.Generator | None = None, **scoring: Any
) -> dict[str, Tensor]:
    """Return a score per prunable weight (higher is kept); of the first round if the method is iterative.

    `batches` are (inputs, class indices); `scoring` are fields of `Scoring` (fisher_batch_size, batchnorm,
    prune_classifier, temperature, ...). Keys are parameter names, tensors have the parameters' shapes. The
    model comes back bit-identical; one in half precision is scored in a float32 copy. Raises RequestError for an
    unknown method or option, for a model that cannot be scored and for batches that do not fit it; ScoreError for
    scores that are not finite or all exactly zero.
    """
    return dict(_scorer(model, batches, generator, scoring).scores(method))


def prune(
    model: nn.Module,
    batches: Batches,
    *,
    method: str,
    sparsity: float,
    scope: str = "global",
    generator: torch.Generator | None = None,
    **scoring: Any,
) -> dict[str, Tensor]:
    """Return bool masks (True = kept) that prune exactly floor(sparsity · N) of the N prunable weights.

    `scope` is "global", "layer", "erk" or "uniform"; the rest as for `score`. The model is not changed: see `apply`.
    """
    given: object = sparsity  # numpy's numbers are no subclasses of float
    if not isinstance(given, Real) or not 0 <= sparsity < 1:
        raise RequestError(f"sparsity = {sparsity!r} must be at least 0 and below 1")
    if scope not in ("global", "layer", "erk", "uniform"):
        raise unknown("scope", scope, ("global", "layer", "erk", "uniform"))
    return _scorer(model, batches, generator, scoring).prune(method, sparsity, scope).masks


def apply(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set every pruned weight of `model` to exactly zero, in place.

    Raises RequestError, naming the tensor, if a mask is not one of the model's or has another shape.
    """
    parameters = check_masks(masks, model)
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask, 0)


def _scorer(model: nn.Module, batches: Batches, generator: torch.Generator | None, scoring: dict[str, Any]) -> Scorer:
    for name in scoring:
        if name not in Scoring.__struct_fields__:
            raise unknown("scoring option", name, sorted(set(Scoring.__struct_fields__) - set(_OF_GRIDS)))
        if name in _OF_GRIDS:
            raise RequestError(
                f"scoring option {name!r} has no effect here: `batches` decides what is scored, and in what order"
            )
    options = convert(scoring, Scoring, "scoring")
    if not isinstance(generator, torch.Generator | None):
        raise RequestError(f"generator is {type(generator).__name__}, not a torch.Generator")
    seed = 0 if generator is None else int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return Scorer(model, batches, options, seed)

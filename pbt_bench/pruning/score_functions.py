"""Call score functions and check what they return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pbt_bench.errors import ScoreError
from pbt_bench.pruning.pruners import Pruner
from pbt_bench.pruning.task import Tensors


def evaluate(entry: Pruner, values: Mapping[str, Tensors], parameters: Mapping[str, Tensor], invert: bool) -> Tensors:
    """Call the score function once per tensor. Raises ScoreError for scores that cannot be ranked.

    A one-shot method gets copies; copies in every round would be slow, so an iterative one must not change them.
    """
    return {name: _score(entry, name, [values[need][name] for need in entry.needs], invert) for name in parameters}


def _score(entry: Pruner, name: str, arguments: Sequence[Tensor], invert: bool) -> Tensor:
    shape, device = arguments[0].shape, arguments[0].device
    where = f"method {entry.name!r}, layer {name!r}"
    if entry.rounds == 1:
        arguments = [argument.clone() for argument in arguments]
    versions = [argument._version for argument in arguments]
    with torch.no_grad():
        score = entry.function(*arguments)
        if entry.rounds > 1 and [argument._version for argument in arguments] != versions:
            raise ScoreError(f"{where}: an iterative method must not change its arguments")
        if not isinstance(score, Tensor) or score.shape != shape:
            got = f"shape {list(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
            raise ScoreError(f"{where}: scores have {got}, expected a tensor of shape {list(shape)}")
        if score.layout != torch.strided or score.device != device:
            raise ScoreError(f"{where}: scores are {score.layout} on {score.device}, expected a dense tensor")
        if score.is_complex():
            raise ScoreError(f"{where}: scores have {score.dtype}, expected real numbers")
        if not bool(score.sum().isfinite()):  # the sum is much faster to test than every score
            bad = int((~score.isfinite()).sum())
            if bad:
                raise ScoreError(f"{where}: {bad} of {score.numel()} scores are NaN or infinite")
        return -score if invert else score

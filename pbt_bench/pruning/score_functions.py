"""Call score functions and check what they return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pbt_bench.errors import ScoreError
from pbt_bench.pruning.plugins import Pruner
from pbt_bench.pruning.task import Tensors


def evaluate(entry: Pruner, values: Mapping[str, Tensors], parameters: Mapping[str, Tensor], invert: bool) -> Tensors:
    """Call the score function of `entry` once per tensor.

    A one-shot method gets copies of the statistics; an iterative one must not change them, because copies in every
    round would be slow. Raises ScoreError for scores that cannot be ranked, and for masks (bool) of an iterative or
    inverted method or of some layers only.
    """
    scores = {
        name: _evaluated_layer(entry, name, [values[need][name] for need in entry.needs], invert) for name in parameters
    }
    masks = [name for name, score in scores.items() if score.dtype == torch.bool]
    if masks and (len(masks) < len(scores) or entry.rounds > 1 or invert):
        wrong = "an iterative method" if entry.rounds > 1 else "inverted scores" if invert else "other layers"
        raise ScoreError(f"method {entry.name!r}, layer {masks[0]!r}: a mask (bool) cannot be mixed with {wrong}")
    return scores


def _evaluated_layer(entry: Pruner, name: str, arguments: Sequence[Tensor], invert: bool) -> Tensor:
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
        if score.dtype == torch.bool:
            return score
        if not score.is_floating_point():
            kind = str(score.dtype).removeprefix("torch.")
            raise ScoreError(f"{where}: scores have {kind}, expected floating-point numbers, or bool for a mask")
        if not bool(score.sum().isfinite()):  # the sum is much faster to test than every score
            bad = int((~score.isfinite()).sum())
            if bad:
                raise ScoreError(f"{where}: {bad} of {score.numel()} scores are NaN or infinite")
        return -score if invert else score

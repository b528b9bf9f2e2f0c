"""Contract tests of a file of methods, statistics and scopes: `pbt-bench check FILE`."""

from __future__ import annotations

import copy
import random
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from pbt_bench.errors import RequestError, ScoreError, reason
from pbt_bench.models import build
from pbt_bench.models.model_state import preserved
from pbt_bench.models.prunable import prunable
from pbt_bench.pruning.api import prune
from pbt_bench.pruning.checks import checked_task
from pbt_bench.pruning.masks import pruned_count, quotas
from pbt_bench.pruning.plugins import Pruner, Scope, Statistic, read_file
from pbt_bench.pruning.statistic_values import compute
from pbt_bench.pruning.task import Tensors
from pbt_bench.spec import Scoring

NETWORKS = ("vgg8", "lenet-300-100", "resnet8")  # the weights of the second get few values: equal scores
SPARSITIES = (0.0, 0.3, 0.5, 0.8, 0.9, 0.95, 0.98)
Check = Callable[[nn.Module], object]  # raises an error if the file breaks the contract
Result = Callable[..., Tensors]  # (network, sparsity = 0.5, dtype, shift of the inputs) -> masks or values


class _Fault(Exception):
    """A fault after which other checks can still be computed."""


class Verdict(NamedTuple):
    """The result of one check."""

    subject: str  # "method 'wanda'"
    check: str
    fault: str  # "" if the check passes

    def __str__(self) -> str:
        return f"{'wrong' if self.fault else 'ok':5}  {self.subject}: {self.check}{': ' * bool(self.fault)}{self.fault}"


def check_file(path: Path) -> Iterator[Verdict]:
    """Yield a verdict for every check of all methods, statistics and scopes of a file, on small networks.

    If a method or statistic cannot be computed, its remaining checks are left out. Seeds the global random generators
    and sets the number of threads to 1, because the networks are small.

    Raises RequestError if the file does not load or defines nothing.
    """
    entries = read_file(path)
    if not entries:
        raise RequestError(f"{path} defines no method, statistic or scope: use @pruner, @statistic or @scope")
    torch.set_num_threads(1)
    networks = {name: build(name, channels=3, classes=4, seed=0, size=8) for name in NETWORKS}
    for weight in prunable(networks[NETWORKS[1]]).values():
        weight.data = weight.data.sign() * (64 * weight.data.abs()).ceil() / 64
    for entry in entries:
        kind = "method" if isinstance(entry, Pruner) else type(entry).__name__.lower()
        for check, function in _checks(entry):
            fault, stop = "", False
            for name, network in networks.items():
                try:
                    function(copy.deepcopy(network))
                except Exception as error:
                    fault, stop = f"{name}: {_message(error, path.resolve())}", not isinstance(error, _Fault)
                    break
            yield Verdict(f"{kind} {entry.name!r}", check, fault)
            if stop:
                break


def _message(error: Exception, path: Path) -> str:
    """Return the message of an error in one line, for an error in the file's code also its type and line."""
    if isinstance(error, (_Fault, RequestError, ScoreError)):
        return str(error)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    hint = " (task.sparsity and task.kept are set with per_sparsity=True only)" if "NoneType" in str(error) else ""
    return f"line {lines[-1] if lines else '?'}: {type(error).__name__}: {reason(error)}{hint}"


def _checks(entry: Pruner | Statistic | Scope) -> Iterator[tuple[str, Check]]:
    if isinstance(entry, Scope):
        yield "finite shares of at least 0 for every layer, exact totals", lambda model: _check_scope(entry, model)
        return

    def result(model: nn.Module, sparsity: float = 0.5, dtype: torch.dtype = torch.float32, shift: int = 0) -> Tensors:
        """Return the masks of a method, in at most 3 rounds, or the values of a statistic."""
        images = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype) + shift
        batches = list(zip(images.split(12), (torch.arange(24) % 4).split(12), strict=True))
        if isinstance(entry, Pruner):
            rounds = min(3, entry.rounds) if entry.rounds > 1 else None
            return prune(model, batches, method=entry, sparsity=sparsity, rounds=rounds)
        task = checked_task(model, batches, Scoring(), 0)
        total = sum(weight.numel() for weight in task.parameters.values())
        with preserved(model):
            task = replace(task, sparsity=sparsity, kept=total - pruned_count(sparsity, total))
            return compute(task, [entry.name])[entry.name].values

    if isinstance(entry, Pruner):
        yield "known statistics and scope, valid options", lambda _: Pruner.check(entry)
        if entry.trains:
            yield "not computed, because only a run of a grid can train", lambda _: None
            return
        yield (
            f"finite scores, exact masks at {len(SPARSITIES)} sparsities",
            lambda model: _check_counts(result, model, entry.scope or "global"),
        )
    elif entry.trains:
        yield "not computed, because only a run of a grid can train", lambda _: None
        return
    else:
        yield "finite values of the weights' shapes", lambda model: _check_finite(result(model))
        if not entry.data:
            yield "data=False: equal for other data", lambda model: _check_equal(result(model), result(model, shift=1))
        if entry.per_sparsity:
            yield "per_sparsity=True: depends on the sparsity", lambda model: _check_sparsity(result, model)
    yield "the model is bit-identical afterwards", lambda model: _check_model(result, model)
    yield "equal in two calls", lambda model: _check_equal(result(model), result(model))
    yield "independent of the global random state", lambda model: _check_random(result, model)
    yield "float64", lambda model: _check_finite(result(model.double(), dtype=torch.float64), torch.float64)


def _check_finite(values: Tensors, dtype: torch.dtype = torch.float32) -> None:
    for name, value in values.items():
        if value.dtype not in (dtype, torch.bool):
            raise _Fault(f"layer {name!r} is {value.dtype} for a network of {dtype}")
        if odd := int((~value.isfinite()).sum()):
            raise ScoreError(f"layer {name!r}: {odd} of {value.numel()} values are NaN or infinite")


def _check_equal(first: Tensors, second: Tensors) -> None:
    if changed := [name for name in first if not torch.equal(first[name], second[name])]:
        raise _Fault(f"layer {changed[0]!r} differs")


def _check_sparsity(result: Result, model: nn.Module) -> None:
    low, high = result(model, 0.3), result(model, 0.9)
    if all(torch.equal(low[name], high[name]) for name in low):
        raise _Fault("its values are equal at sparsities 0.3 and 0.9")


def _check_random(result: Result, model: nn.Module) -> None:
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        found.append(result(model))
    _check_equal(found[0], found[1])


def _kept_counts(model: nn.Module) -> Iterator[tuple[float, dict[str, tuple[int, ...]], int]]:
    """Yield each sparsity with the shapes of the layers and the number of kept weights."""
    shapes = {name: tuple(weight.shape) for name, weight in prunable(model).items()}
    total = sum(map(prod, shapes.values()))
    yield from ((sparsity, dict(shapes), total - pruned_count(sparsity, total)) for sparsity in SPARSITIES)


def _check_counts(result: Result, model: nn.Module, scope: str) -> None:
    for sparsity, shapes, kept in _kept_counts(model):
        try:
            if scope != "global":
                quotas(shapes, kept, scope)
        except RequestError:
            continue  # the scope cannot have this density
        found = sum(int(mask.sum()) for mask in result(model, sparsity).values())
        if found != kept:
            raise _Fault(f"sparsity {sparsity:g}: masks keep {found} weights, not {kept}")


def _check_scope(entry: Scope, model: nn.Module) -> None:
    for sparsity, shapes, kept in _kept_counts(model):
        try:
            if entry.function:
                entry.function(dict(shapes), kept / sum(map(prod, shapes.values())))
        except RequestError:
            if sparsity == 0:
                raise
            continue  # the scope cannot have this density
        found = [quotas(shapes, kept, entry.name) for _ in range(2)]
        if sum(found[0].values()) != kept or found[0] != found[1]:
            raise _Fault(f"sparsity {sparsity:g}: {found[0]}, then {found[1]}, not {kept} weights twice")


def _check_model(result: Result, model: nn.Module) -> None:
    first, *_, last = prunable(model.train()).values()
    first.grad = torch.ones_like(first)
    last.requires_grad_(False)
    before = _state(model)
    result(model)
    after = _state(model)
    if changed := [name for name in before | after if before.get(name) != after.get(name)]:
        raise _Fault(f"{changed[0]} is changed")


def _state(model: nn.Module) -> dict[str, object]:
    """Return everything about a model that must not change, by the name of the tensor or module."""
    state: dict[str, object] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        values = [part.detach().numpy().tobytes() for part in (tensor, tensor.grad) if part is not None]
        state[name] = id(tensor), tensor.requires_grad, values
    for name, module in model.named_modules():
        hooks = [len(value) for attribute, value in vars(module).items() if attribute.endswith("_hooks")]
        state[f"module {name!r}"] = module.training, sorted(vars(module)), module.extra_repr(), hooks
    return state

"""Tests that enforced masks hold through every step of any optimizer, in ordinary training loops."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

import pbt_bench
from pbt_bench.errors import RequestError

OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, foreach=True),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, fused=True),
    "maximize": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, maximize=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.1),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=4, line_search_fn="strong_wolfe"),
}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 8), nn.ReLU(),
        nn.Linear(8, 3),
    )  # fmt: skip


@pytest.fixture
def masks(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.rand_like(p) < 0.3 for name, p in model.named_parameters() if p.ndim > 1}


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 1, 4, 4, generator=generator), torch.randint(3, (8,), generator=generator)


def closure_of(model: nn.Module, optimizer: Optimizer, seed: int, called: Callable[[], object]) -> Callable[[], float]:
    def closure() -> float:
        called()
        optimizer.zero_grad()
        inputs, targets = batch(seed)
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss.item()

    return closure


def train(model: nn.Module, optimizer: Optimizer, steps: int = 4, called: Callable[[], object] = lambda: None) -> None:
    """Take steps, and call `called` before every forward pass and at the end."""
    for seed in range(steps):
        optimizer.step(closure_of(model, optimizer, seed, called))
        called()


def zero(model: nn.Module, masks: dict[str, Tensor]) -> bool:
    """Return whether every pruned weight is exactly zero, and most kept weights are not."""
    weights = dict(model.named_parameters())
    kept = torch.cat([weights[name][mask] for name, mask in masks.items()])
    return all(bool((weights[name][~mask] == 0).all()) for name, mask in masks.items()) and bool((kept != 0).any())


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("begun", [False, True], ids=["at the start", "after dense steps"])
def test_pruned_weights_are_zero_in_every_forward_pass_and_after_every_step(
    kind: str, begun: bool, model: nn.Module, masks: dict[str, Tensor]
) -> None:
    optimizer = OPTIMIZERS[kind](model.parameters())
    if begun and kind != "lbfgs":  # its history has no entry per weight
        train(model, optimizer)
    seen = []
    before = {name: p.clone() for name, p in model.named_parameters()}
    pbt_bench.enforce(model, masks, optimizer)
    train(model, optimizer, called=lambda: seen.append(zero(model, masks)))
    assert len(seen) >= 8
    assert all(seen)
    for name in masks:
        assert not torch.equal(model.get_parameter(name), before[name]), name


def is_for_dense_gradients(name: str) -> bool:
    kind = getattr(torch.optim, name)
    return isinstance(kind, type) and issubclass(kind, Optimizer) and name not in ("Optimizer", "SparseAdam")


class Masked(nn.Module):
    """The parametrization of a weight by its product with a mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.float())

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def parametrized(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    other = copy.deepcopy(model)
    pbt_bench.apply(other, masks)
    for name, mask in masks.items():
        module = other.get_submodule(name.rpartition(".")[0])
        nn.utils.parametrize.register_parametrization(module, "weight", Masked(mask))
    return other


def outputs_after_clipped_steps(
    model: nn.Module, masks: dict[str, Tensor], make: Callable[[Iterator[nn.Parameter]], Optimizer]
) -> list[Tensor]:
    """Return outputs of two trained copies of `model`: with enforced masks, and with weights multiplied by masks."""
    enforced, other = copy.deepcopy(model), parametrized(model, masks)
    outputs = []
    for each in (enforced, other):
        optimizer = make(each.parameters())
        if each is enforced:
            pbt_bench.enforce(each, masks, optimizer)
        for seed in range(3):
            closure = closure_of(each, optimizer, seed, lambda: None)

            def clipped(closure: Callable[[], float] = closure, each: nn.Module = each) -> float:
                loss = closure()
                nn.utils.clip_grad_norm_(each.parameters(), 0.1)
                return loss

            optimizer.step(clipped)
        outputs.append(each(batch(9)[0]))
    assert zero(enforced, masks)
    return outputs


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_kept_weights_are_trained_as_if_the_pruned_ones_did_not_exist(
    kind: str, model: nn.Module, masks: dict[str, Tensor]
) -> None:
    assert torch.equal(*outputs_after_clipped_steps(model, masks, OPTIMIZERS[kind]))


@pytest.mark.parametrize("kind", [name for name in torch.optim.__all__ if is_for_dense_gradients(name)])
def test_every_optimizer_of_torch(kind: str) -> None:
    """Some of them combine the weights of a matrix: Muon makes its update orthogonal, Adafactor factorizes it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False))
    masks = {name: torch.rand_like(p) < 0.4 for name, p in model.named_parameters()}
    make = getattr(torch.optim, kind)
    assert torch.equal(*outputs_after_clipped_steps(model, masks, lambda parameters: make(parameters, lr=0.01)))


def test_momentum_of_pruned_weights_is_gone_and_nothing_leaks_after_loading(
    model: nn.Module, masks: dict[str, Tensor]
) -> None:
    optimizer = OPTIMIZERS["adam"](model.parameters())
    train(model, optimizer)
    dense, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    pbt_bench.enforce(model, masks, optimizer)

    def states() -> list[Tensor]:
        found = [(mask, optimizer.state[model.get_parameter(name)]) for name, mask in masks.items()]
        return [value[~mask] for mask, each in found for value in each.values() if value.shape == mask.shape]

    assert len(states()) == 9
    assert not any(value.any() for value in states())
    model.load_state_dict(dense)
    assert zero(model, masks)
    optimizer.load_state_dict(state)
    assert not any(value.any() for value in states())
    train(model, optimizer)
    assert zero(model, masks)


def test_gradients_that_are_there_and_not_finite_are_dropped(model: nn.Module, masks: dict[str, Tensor]) -> None:
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    for name, mask in masks.items():
        model.get_parameter(name).grad = torch.where(mask, 0.1, torch.inf)
    pbt_bench.enforce(model, masks, optimizer)
    optimizer.step()
    assert zero(model, masks)


def test_scores_and_diagnosis_are_those_of_the_masked_model(model: nn.Module, masks: dict[str, Tensor]) -> None:
    other = copy.deepcopy(model)
    pbt_bench.apply(other, masks)
    pbt_bench.enforce(model, masks, OPTIMIZERS["sgd"](model.parameters()))
    for method in ("snip", "synflow", "grasp", "fts"):
        first, second = (pbt_bench.score(each, [batch(0)], method=method) for each in (model, other))
        assert all(torch.equal(first[name], second[name]) for name in masks), method
    assert pbt_bench.diagnose(model, masks, batch(0)[0]) == pbt_bench.diagnose(other, masks, batch(0)[0])


def test_gradients_accumulate(model: nn.Module, masks: dict[str, Tensor]) -> None:
    optimizer = OPTIMIZERS["adamw fused"](model.parameters())
    pbt_bench.enforce(model, masks, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        for seed in range(2):
            inputs, targets = batch(seed)
            F.cross_entropy(model(inputs), targets).backward()
            for name, mask in masks.items():
                gradient = model.get_parameter(name).grad
                assert gradient is not None
                assert not gradient[~mask].any()
        optimizer.step()
        assert zero(model, masks)


def test_mixed_precision(model: nn.Module, masks: dict[str, Tensor]) -> None:
    optimizer = OPTIMIZERS["nesterov"](model.parameters())
    pbt_bench.enforce(model, masks, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)  # the first steps overflow and are skipped
    scales = []
    for seed in range(20):
        optimizer.zero_grad()
        inputs, targets = batch(seed % 3)
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(inputs).half().float(), targets)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        assert zero(model, masks)
    assert scales[0] < 2.0**30, "the first step was skipped"
    assert scales[-1] == scales[-2], "the last was not"


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # of torch 2.11, by its own import
@pytest.mark.parametrize("compiled_first", [True, False])
@pytest.mark.parametrize("in_place", [True, False])
def test_compiled_models(compiled_first: bool, in_place: bool, model: nn.Module, masks: dict[str, Tensor]) -> None:
    """The backend compiles forward and backward passes without a C++ compiler."""
    torch.compiler.reset()
    plain = copy.deepcopy(model)
    optimizer = OPTIMIZERS["sgd"](model.parameters())

    def compiled() -> Any:
        if in_place:
            model.compile(backend="aot_eager")
            return model
        return torch.compile(model, backend="aot_eager")

    if compiled_first:
        called = compiled()
        train(called, optimizer, 1)
        model.load_state_dict(plain.state_dict())
        optimizer.state.clear()
        pbt_bench.enforce(called, masks, optimizer)
    else:
        pbt_bench.enforce(model, masks, optimizer)
        called = compiled()
    train(called, optimizer, called=lambda: zero(model, masks) or pytest.fail("not zero"))
    other = OPTIMIZERS["sgd"](plain.parameters())
    pbt_bench.enforce(plain, masks, other)
    train(plain, other)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_checkpoint_loads_into_an_unpruned_model(model: nn.Module, masks: dict[str, Tensor]) -> None:
    fresh = copy.deepcopy(model)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    names = list(model.state_dict())
    pbt_bench.enforce(model, masks, optimizer)
    train(model, optimizer)
    assert list(model.state_dict()) == names
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    fresh.load_state_dict(state["model"])
    assert zero(fresh, masks)
    resumed = OPTIMIZERS["adam"](fresh.parameters())
    resumed.load_state_dict(state["optimizer"])
    pbt_bench.enforce(fresh, masks, resumed)
    train(model, optimizer)
    train(fresh, resumed)
    for a, b in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_copy_of_the_model_is_not_enforced(model: nn.Module, masks: dict[str, Tensor]) -> None:
    pbt_bench.enforce(model, masks, OPTIMIZERS["sgd"](model.parameters()))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        other.load_state_dict({name: torch.ones_like(value) for name, value in model.state_dict().items()})
        assert not zero(other, masks)
    assert zero(model, masks)


def test_it_ends_with_remove_and_with_the_block(model: nn.Module, masks: dict[str, Tensor]) -> None:
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    enforcement = pbt_bench.enforce(model, masks, optimizer)
    enforcement.remove()
    assert zero(model, masks)
    train(model, optimizer)
    assert not zero(model, masks)
    with pbt_bench.enforce(model, masks, optimizer):
        train(model, optimizer)
        assert zero(model, masks)
    train(model, optimizer)
    assert not zero(model, masks)


def test_frozen_weights_and_several_optimizers(model: nn.Module, masks: dict[str, Tensor]) -> None:
    first, *_, last = [p for p in model.parameters() if p.ndim > 1]
    first.requires_grad_(False)
    others = [p for p in model.parameters() if p is not first and p is not last]
    parts = [torch.optim.SGD([last], lr=0.1, momentum=0.9), torch.optim.AdamW(others, lr=0.1)]
    with pytest.raises(RequestError, match=r"^the optimizer has no parameter 6.weight: make it from the parameters"):
        pbt_bench.enforce(model, masks, parts[1])
    pbt_bench.enforce(model, masks, parts)
    assert zero(model, masks)
    for _ in range(3):
        inputs, targets = batch(0)
        F.cross_entropy(model(inputs), targets).backward()
        for part in parts:
            part.step()
    assert zero(model, masks)


def test_errors(model: nn.Module, masks: dict[str, Tensor]) -> None:
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(RequestError, match=r"masks and parameters of Sequential differ: other.weight"):
        pbt_bench.enforce(model, {"other.weight": torch.ones(3) > 0}, optimizer)
    with pytest.raises(RequestError, match=r"mask of 0.weight: torch.bool \[3\], expected torch.bool \[4, 1, 3, 3\]"):
        pbt_bench.enforce(model, masks | {"0.weight": torch.ones(3) > 0}, optimizer)
    stranger = OPTIMIZERS["sgd"](copy.deepcopy(model).parameters())
    with pytest.raises(RequestError, match=r"^the optimizer has no parameter 0.weight, 4.weight, 6.weight: make it fr"):
        pbt_bench.enforce(model, masks, stranger)
    with pytest.raises(RequestError, match=r"^the optimizer is dict, not a torch.optim.Optimizer"):
        pbt_bench.enforce(model, masks, [{}])  # type: ignore[list-item]
    with pytest.raises(RequestError, match=r"^the model is dict, not a torch.nn.Module"):
        pbt_bench.enforce({}, masks, optimizer)  # type: ignore[arg-type]
    assert all(map(torch.equal, before, model.parameters()))


DISTRIBUTED = """
import sys, torch, pbt_bench
from torch import nn
from torch.nn.parallel import DistributedDataParallel
rank, file, wrapped = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "wrapped"
torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
masks = {name: torch.rand_like(p) < 0.4 for name, p in model.named_parameters() if p.ndim > 1}
parallel = DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
pbt_bench.enforce(parallel if wrapped else model, masks, optimizer)
torch.manual_seed(rank + 1)
for _ in range(4):
    optimizer.zero_grad()
    parallel(torch.randn(5, 6)).square().sum().backward()
    optimizer.step()
    for name, mask in masks.items():
        assert not model.get_parameter(name)[~mask].any() and model.get_parameter(name).any()
weights = torch.cat([p.detach().flatten() for p in model.parameters()])
both = [torch.empty_like(weights) for _ in range(2)]
torch.distributed.all_gather(both, weights)
assert torch.equal(*both)
torch.distributed.destroy_process_group()
"""


def test_two_processes_train_the_same_sparse_weights(tmp_path: Path) -> None:
    calls = [
        subprocess.Popen(
            [sys.executable, "-c", DISTRIBUTED, str(rank), str(tmp_path / "store"), "wrapped" if rank else "inner"],
            cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [call.communicate(timeout=120)[1] for call in calls]
    assert [call.returncode for call in calls] == [0, 0], errors

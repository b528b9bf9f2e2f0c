"""Hessian diagonals: the exact one, Hutchinson's estimate, and a curvature library as a second opinion."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import batches, golden, mlp
from torch import Tensor, nn

import pbt_bench
from pbt_bench.errors import RequestError
from pbt_bench.models.model_state import preserved
from pbt_bench.models.prunable import prunable
from pbt_bench.pruning.statistic_values import compute
from pbt_bench.pruning.task import Task
from pbt_bench.seeds import stream
from pbt_bench.spec import Scoring

Data = list[tuple[Tensor, Tensor]]


def diagonal(model: nn.Module, data: Data, **scoring: object) -> tuple[dict[str, Tensor], dict[str, float]]:
    fields = {name: scoring.pop(name) for name in [*scoring] if name in Scoring.__struct_fields__}
    task = Task(model, prunable(model), data, Scoring(**fields), seed=0)  # type: ignore[arg-type]
    with preserved(model):
        found = compute(task, ["hessian_diagonal"], scoring)["hessian_diagonal"]
    return found.values, dict(found.notes)


def exact(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The diagonal of the explicit Hessian."""
    return hessian(model, x, y).diagonal()


def hessian(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The explicit Hessian of the mean cross-entropy."""
    weights = list(prunable(model).items())

    def loss(vector: Tensor) -> Tensor:
        parts = vector.split([w.numel() for _, w in weights])
        state = {name: part.view_as(w) for (name, w), part in zip(weights, parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, state, (x,)), y)

    flat = torch.cat([w.detach().flatten() for _, w in weights])
    return torch.autograd.functional.hessian(loss, flat)


def flatten(values: dict[str, Tensor]) -> Tensor:
    return torch.cat([v.flatten() for v in values.values()])


@pytest.fixture
def problem() -> tuple[nn.Module, Tensor, Tensor]:
    model = mlp(4, 7, 5, 3)
    generator = torch.Generator().manual_seed(0)
    return model, torch.randn(13, 4, generator=generator).double(), torch.randint(3, (13,), generator=generator)


def test_gauss_newton_is_the_exact_diagonal_of_a_relu_network(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = problem
    found, _ = diagonal(model, batches(x, y, 5, 8), curvature="ggn")
    torch.testing.assert_close(flatten(found), exact(model, x, y), rtol=1e-9, atol=1e-12)
    assert bool((flatten(found) >= 0).all())


def test_hutchinson_converges_to_the_exact_diagonal_within_its_own_error(
    problem: tuple[nn.Module, Tensor, Tensor],
) -> None:
    model, x, y = problem
    truth = exact(model, x, y)
    errors = []
    for probes in (50, 800):
        found, notes = diagonal(model, batches(x, y, 6, 7), probes=probes)
        error = float((flatten(found) - truth).norm() / truth.norm())
        assert notes["probes"] == probes
        assert error < 3 * notes["relative_standard_error"]
        assert error > notes["relative_standard_error"] / 5
        errors.append(error)
    assert errors[1] < errors[0] / 2


def test_hutchinson_takes_as_many_probes_as_a_tolerance_needs(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = problem
    _, few = diagonal(model, batches(x, y, 13), probes=10)
    _, enough = diagonal(model, batches(x, y, 13), probes=10, probe_tolerance=0.1)
    assert few["probes"] == 10
    assert few.get("relative_standard_error", math.inf) > 0.1
    assert enough["relative_standard_error"] <= 0.1
    assert enough["probes"] > 10


def test_a_tolerance_is_not_met_by_an_estimate_that_is_all_noise() -> None:
    """Its own norm grows with the noise, so error over norm stays near one however wrong it is."""
    net, x, y, _ = golden()
    _, notes = diagonal(net, batches(x, y, 48), probes=2, probe_tolerance=1.02)
    assert notes["probes"] > 100
    assert notes["relative_standard_error"] <= 1.02


def test_ten_probes_are_noise_and_the_exact_diagonal_is_not() -> None:
    """Show finding F8: half of Hutchinson's estimates are negative, although the exact diagonal is not."""
    net, x, y, _ = golden()
    data = batches(x, y, 48)
    noisy, notes = diagonal(net, data, probes=10)
    true, _ = diagonal(net, data, curvature="ggn")
    assert bool((flatten(true) >= 0).all())
    assert float((flatten(noisy) < 0).float().mean()) > 0.2
    assert notes["standard_error"] > float(flatten(true).norm()), "the record says how noisy it is"
    assert notes.get("relative_standard_error", math.inf) > 1


@pytest.mark.parametrize("chunk", [None, 2])
def test_every_batch_can_have_probes_of_its_own(problem: tuple[nn.Module, Tensor, Tensor], chunk: int | None) -> None:
    """The mean of v ⊙ Hv over probes and batches, written with explicit Hessians of the batches."""
    model, x, y = problem
    found, notes = diagonal(model, batches(x, y, 5, 5, 3), probes=4, probes_per_batch=True, chunk=chunk)
    shared, _ = diagonal(model, batches(x, y, 5, 5, 3), probes=4, chunk=chunk)
    generator = stream(0, "probes")
    total = torch.zeros_like(flatten(found))
    for _ in range(4):
        for inputs, targets in batches(x, y, 5, 5, 3):
            probe = [torch.randint(2, w.shape, generator=generator) * 2.0 - 1 for w in prunable(model).values()]
            v = torch.cat([part.flatten() for part in probe]).double()
            total += v * (hessian(model, inputs, targets) @ v) * len(targets) / len(y) / 4
    torch.testing.assert_close(flatten(found), total, rtol=1e-10, atol=1e-13)
    assert notes["probes"] == 4
    assert float((flatten(shared) - total).norm() / total.norm()) > 0.1


class Cooled(nn.Module):
    """The logits of a network, divided by a temperature."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) / self.temperature


@pytest.mark.parametrize(
    ("method", "curvature"),
    [
        *((name, "") for name in ("snip", "fisher_diagonal", "fts")),
        *itertools.product(("hts", "hutchinson_pruning"), ("hutchinson", "ggn")),
    ],
)
def test_the_loss_temperature_divides_the_logits(
    problem: tuple[nn.Module, Tensor, Tensor], method: str, curvature: str
) -> None:
    model, x, y = problem
    data = batches(x, y, 6, 7)
    options: dict[str, Any] = {"method": method} | ({"curvature": curvature, "probes": 5} if curvature else {})
    warm = pbt_bench.score(model, data, loss_temperature=7.0, **options)
    cooled = pbt_bench.score(Cooled(model, 7.0), data, **options)
    plain = pbt_bench.score(model, data, **options)
    for name, score in warm.items():
        torch.testing.assert_close(score, cooled[f"model.{name}"], rtol=1e-12, atol=0)
        assert float((score - plain[name]).norm() / plain[name].norm()) > 0.1


def test_gauss_newton_refuses_dependent_samples() -> None:
    net, x, y, _ = golden()
    with pytest.raises(RequestError, match="needs independent samples"):
        diagonal(net, batches(x, y, 48), curvature="ggn", batchnorm="batch")


def test_backpack_agrees_on_gradient_squares_and_gauss_newton() -> None:
    backpack = pytest.importorskip("backpack")
    from backpack.extensions import DiagGGNExact, SumGradSquared

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 5),
    )  # fmt: skip
    x, y = torch.randn(9, 2, 8, 8), torch.randint(5, (9,))
    fisher = pbt_bench.score(model, batches(x, y, 4, 5), method="fisher_diagonal")
    curvature, _ = diagonal(model, batches(x, y, 4, 5), curvature="ggn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, loss = backpack.extend(model), backpack.extend(nn.CrossEntropyLoss(reduction="sum"))
        with backpack.backpack(SumGradSquared(), DiagGGNExact()):
            loss(model(x), y).backward()
    for name, parameter in prunable(model).items():
        torch.testing.assert_close(fisher[name], parameter.sum_grad_squared / 9, rtol=1e-4, atol=1e-7)  # type: ignore[attr-defined]
        torch.testing.assert_close(curvature[name], parameter.diag_ggn_exact / 9, rtol=1e-4, atol=1e-7)  # type: ignore[attr-defined]

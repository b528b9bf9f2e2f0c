"""Iterative methods against the plain algorithm, and what a few of them promise."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import ConvNet, batches, golden
from rounds_plainly import rounds_plainly
from torch import Tensor, nn

import pbt_bench
from pbt_bench.errors import ScoreError
from pbt_bench.models import build
from pbt_bench.models.model_state import preserved
from pbt_bench.models.prunable import prunable
from pbt_bench.pruning import rounds as module
from pbt_bench.pruning.plugins import Pruner, scopes
from pbt_bench.pruning.rounds import prune_in_rounds
from pbt_bench.pruning.score_functions import evaluate
from pbt_bench.pruning.scoring import Scorer
from pbt_bench.pruning.selection import selection
from pbt_bench.pruning.statistic_values import Measured, compute
from pbt_bench.pruning.task import Task
from pbt_bench.spec import Scoring


@pytest.mark.parametrize(("method", "regrow"), [("iterative_snip", False), ("force", True)])
@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.98])
def test_iterative_snip_and_force_equal_the_plain_algorithm(method: str, regrow: bool, sparsity: float) -> None:
    net, x, y, _ = golden()
    net, x = net.double(), x.double()
    expected = rounds_plainly(net, lambda: F.cross_entropy(net(x), y), sparsity, 7, regrow)
    found = pbt_bench.prune(net, batches(x, y, 20, 28), method=method, sparsity=sparsity, rounds=7)
    different = sum(int((found[name] != expected[name]).sum()) for name in found)
    assert different == 0


def test_force_lets_pruned_weights_return_and_iterative_snip_does_not() -> None:
    net, x, y, _ = golden()
    torch.manual_seed(0)
    net.load_state_dict(ConvNet().state_dict())
    masks = {
        method: [
            pbt_bench.prune(net, batches(x, y, 48), method=method, sparsity=s, rounds=rounds)
            for s, rounds in ((0.9, 1), (0.9, 10))
        ]
        for method in ("force", "iterative_snip")
    }
    assert all(torch.equal(masks["force"][0][n], masks["iterative_snip"][0][n]) for n in masks["force"][0])
    assert any(not torch.equal(masks["force"][1][n], masks["iterative_snip"][1][n]) for n in masks["force"][1])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("method", ["synflow", "iterative_snip", "force", "fts"])
def test_memory_format_does_not_matter(method: str, memory_format: torch.memory_format) -> None:
    net, x, y, _ = golden()
    expected = pbt_bench.prune(net.double(), batches(x.double(), y, 48), method=method, sparsity=0.9)
    net = net.to(memory_format=memory_format)
    found = pbt_bench.prune(net, batches(x.double(), y, 48), method=method, sparsity=0.9)
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("scope", sorted(set(scopes()) - {"global"}))
@pytest.mark.parametrize("method", ["synflow", "force"])
def test_rounds_take_every_scope_and_stay_exact(method: str, scope: str) -> None:
    net, x, y, _ = golden()
    masks = pbt_bench.prune(net, batches(x, y, 48), method=method, sparsity=0.9, scope=scope, rounds=10)
    assert sum(int((~m).sum()) for m in masks.values()) == 3448
    assert all(bool(m.any()) for m in masks.values())


def test_a_score_that_depends_on_the_whole_tensor_is_given_whole_tensors_in_every_round() -> None:
    net, x, y, _ = golden()
    shapes: list[torch.Size] = []

    def per_filter(weight: Tensor, gradient: Tensor) -> Tensor:
        shapes.append(weight.shape)
        taylor = (weight * gradient).abs().flatten(1)
        return (taylor / taylor.sum(1, keepdim=True).clamp(min=1e-30)).view_as(weight)

    entry = Pruner("per_filter", per_filter, ("weight", "gradient"), "here", rounds=10)
    task = Scorer(net, batches(x, y, 48), Scoring(), 0).task
    with preserved(net):
        scores = evaluate(
            entry, {name: each.values for name, each in compute(task, entry.needs).items()}, task.parameters, False
        )
        masks = prune_in_rounds(entry, task, scores, 0.9, selection(task, "global", "none"), False, 10)
    assert shapes == [p.shape for p in prunable(net).values()] * 10
    assert sum(int((~m).sum()) for m in masks.values()) == 3448


def scored(function: Callable[[Tensor], object], rounds: int = 1, invert: bool = False) -> tuple[Tensor, Tensor]:
    """What `evaluate` makes of one layer of weights 0 to 5, and those weights afterwards."""
    weight = torch.arange(6.0).view(2, 3)
    entry = Pruner("mine", function, ("weight",), "here", rounds=rounds)  # type: ignore[arg-type]
    return evaluate(entry, {"weight": {"layer": weight}}, {"layer": weight}, invert)["layer"], weight


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda w: w[0], "scores have shape [3], expected a tensor of shape [2, 3]"),
        (lambda w: w.tolist(), "scores have list, expected a tensor of shape [2, 3]"),
        (lambda w: w.to_sparse(), "scores are torch.sparse_coo on cpu, expected a dense tensor"),
        (lambda w: w.to("meta"), "scores are torch.strided on meta, expected a dense tensor"),
        (lambda w: w + 1j, "scores have complex64, expected floating-point numbers, or bool for a mask"),
        (lambda w: w / w, "1 of 6 scores are NaN or infinite"),
        (lambda w: 1 / (w > 1), "2 of 6 scores are NaN or infinite"),
    ],
    ids=["shape", "type", "layout", "device", "complex", "nan", "infinite"],
)
def test_scores_that_cannot_be_ranked_are_refused(function: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ScoreError, match=re.escape(f"method 'mine', layer 'layer': {message}")):
        scored(function)


def test_finite_scores_whose_sum_overflows_are_taken() -> None:
    assert bool((scored(lambda w: torch.full_like(w, 3e38))[0] == torch.tensor(3e38)).all())


def test_only_a_one_shot_method_may_change_its_arguments() -> None:
    scores, weight = scored(lambda w: w.mul_(2))
    assert scores.tolist() == [[0, 2, 4], [6, 8, 10]]
    assert weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert scored(lambda w: w * 2, rounds=2)[0].tolist() == scores.tolist()
    with pytest.raises(ScoreError, match="an iterative method must not change its arguments"):
        scored(lambda w: w.mul_(2), rounds=2)


def test_inverted_scores_keep_the_lowest_in_every_round() -> None:
    assert torch.equal(scored(lambda w: w, invert=True)[0], -scored(lambda w: w)[0])
    model = nn.Linear(10, 1, bias=False)
    model.weight.data = torch.arange(10.0).view(1, 10)
    entry = Pruner("mine", lambda weight: weight, ("weight",), "here", rounds=3)
    for invert, kept in ((False, [8, 9]), (True, [0, 1])):
        task = Task(model, prunable(model), [], Scoring(), seed=0)
        with preserved(model):
            scores = evaluate(
                entry, {name: each.values for name, each in compute(task, entry.needs).items()}, task.parameters, invert
            )
            masks = prune_in_rounds(entry, task, scores, 0.8, selection(task, "global", "none"), invert, 3)
        assert masks["weight"].nonzero()[:, 1].tolist() == kept


def test_every_round_has_its_number_and_the_masked_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def watching(task: Task, names: Collection[str], options: Mapping[str, Any] | None = None) -> dict[str, Measured]:
        seen.append((task.round, sum(int(p.count_nonzero()) for p in task.parameters.values())))
        return compute(task, names, options)

    monkeypatch.setattr(module, "compute", watching)
    net, x, y, _ = golden()
    pbt_bench.prune(net, batches(x, y, 48), method="iterative_snip", sparsity=0.75, rounds=4)
    assert seen == [(k + 1, 3832 - int((1 - 0.25 ** (k / 4)) * 3832)) for k in (1, 2, 3)]


def test_the_density_falls_exponentially_not_the_sparsity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exclude finding F16: a schedule of the sparsity that prunes 99.9% in the first of 100 rounds."""
    net, x, y, _ = golden()
    kept: list[int] = []

    def watching(task: Task, names: Collection[str], options: Mapping[str, Any] | None = None) -> dict[str, Measured]:
        assert task.masks
        kept.append(sum(int(mask.sum()) for mask in task.masks.values()))
        return compute(task, names, options)

    monkeypatch.setattr(module, "compute", watching)
    masks = pbt_bench.prune(net, batches(x, y, 48), method="synflow", sparsity=0.9)
    assert all(bool(m.any()) for m in masks.values()), "no layer collapses"
    assert kept == [3832 - int((1 - 0.1 ** (k / 100)) * 3832) for k in range(1, 100)]


@pytest.mark.parametrize("depth", [110, 1202])
def test_synflow_is_finite_at_any_depth(depth: int) -> None:
    """Exclude finding F9: float32 overflows on ResNet-110, float64 near 1,200 layers."""
    model = build(f"resnet{depth}", 3, 10, seed=0)
    scores = pbt_bench.score(model, [(torch.zeros(1, 3, 8, 8), torch.zeros(1).long())], method="synflow")
    totals = [float(s.sum()) for s in scores.values()]
    assert all(bool(s.isfinite().all()) for s in scores.values())
    assert totals[0] == pytest.approx(totals[-1], rel=1e-9), "synaptic flow is conserved from input to output"
    assert min(totals) > 0


def test_taking_powers_of_two_out_changes_nothing_but_a_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    from pbt_bench.pruning.statistics import synaptic_flow

    model = build("resnet20", 3, 10, seed=0)
    data = [(torch.zeros(1, 3, 8, 8), torch.zeros(1).long())]
    plain = pbt_bench.score(model, data, method="synflow")
    with torch.no_grad():
        model.conv1.weight.mul_(1e30)  # overflows float64 neither alone nor here
    monkeypatch.setattr(synaptic_flow, "_MOST_ORDERS", 4)
    monkeypatch.setattr(synaptic_flow, "_finite", lambda total: False)
    scaled = pbt_bench.score(model, data, method="synflow")
    ratios = torch.tensor([float(scaled[n].sum() / plain[n].sum()) for n in plain])
    torch.testing.assert_close(ratios, ratios[0].expand_as(ratios), rtol=1e-9, atol=0)


def test_prospr_differentiates_through_every_step_the_first_momentum_included() -> None:
    """Exclude finding F11: compare with finite differences of the loss after three steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    data = [(torch.randn(5, 3).double(), torch.randint(2, (5,))) for _ in range(4)]

    def after(name: str, index: int, value: float) -> float:
        state = {n: p.detach().clone() for n, p in model.named_parameters()}
        state[name].view(-1)[index] *= value
        momentum = dict.fromkeys(state, 0.0)
        for x, y in data[:3]:
            leaves = {n: t.detach().requires_grad_() for n, t in state.items()}
            loss = F.cross_entropy(torch.func.functional_call(model, leaves, (x,)), y)
            for n, g in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
                momentum[n] = 0.9 * momentum[n] + g  # type: ignore[assignment]
                state[n] = state[n] - 0.3 * momentum[n]
        return float(F.cross_entropy(torch.func.functional_call(model, state, (data[3][0],)), data[3][1]))

    found = pbt_bench.score(model, data, method="prospr", inner_learning_rate=0.3, inner_momentum=0.9)
    for name, scores in found.items():
        for index in range(0, scores.numel(), 3):
            slope = (after(name, index, 1 + 1e-5) - after(name, index, 1 - 1e-5)) / 2e-5
            assert float(scores.view(-1)[index]) == pytest.approx(abs(slope), rel=1e-4, abs=1e-9)


def test_ntk_sap_is_about_the_architecture_not_the_labels_or_the_order_of_the_weights() -> None:
    net, x, y, _ = golden()
    first = pbt_bench.score(net, batches(x, y, 24, 24), method="ntk_sap")
    other = pbt_bench.score(net, batches(x + 1, y.flip(0), 24, 24), method="ntk_sap")
    assert all(torch.equal(first[name], other[name]) for name in first)
    net, x = net.double(), x.double()
    sums = [
        sum(float(s.sum()) for s in scores.values())
        for scale in (1e-8, 5e-9)  # so small that no ReLU switches
        for scores in [pbt_bench.score(net, batches(x, y, 24, 24), method="ntk_sap", perturbation_scale=scale)]
    ]
    assert sums[0] / sums[1] == pytest.approx(4, rel=1e-3), "the change is quadratic in the perturbation"

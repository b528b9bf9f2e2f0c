"""Scores and masks of the methods of 2021 to 2024 equal those of their own published code (tests/golden, third set)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from networks import Odd, batches, golden, published, published_values, scored_methods
from torch import Tensor, nn

import pbt_bench
from pbt_bench.errors import RequestError
from pbt_bench.models.model_state import preserved
from pbt_bench.pruning.masks import pruned_count
from pbt_bench.pruning.plugins import pruners
from pbt_bench.pruning.scoring import Scorer
from pbt_bench.pruning.statistic_values import compute
from pbt_bench.pruning.statistics.node_paths import balanced
from pbt_bench.spec import Scoring

EXACT = 1e-12  # relative error of a layer
NETS = ["conv", "convbn", "res"]
SEARCHES = sorted(set(pruners()) - set(scored_methods()) - {"imp"})  # methods that depend on the sparsity


def error(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """Return the largest relative error of a layer."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)


@pytest.mark.parametrize("net", [*NETS, "ConvNoBias"])
def test_lamp_is_that_of_its_code(net: str) -> None:
    model, x, y = published(net)
    ours = pbt_bench.score(model, [(x, y)], method="lamp")
    assert error(ours, published_values("lamp")[f"score/{net}"]) < 1e-11  # it subtracts sums of ascending squares


def test_lamp_keeps_a_weight_of_every_layer_that_has_one() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)).double()
    for layer, scale in zip(model, (1e-9, 1.0, 0.0), strict=True):
        layer.weight.data.mul_(scale)
    masks = pbt_bench.prune(model, [(torch.ones(3, 4).double(), torch.arange(3))], method="lamp", sparsity=0.95)
    first, second, third = (int(mask.sum()) for mask in masks.values())
    assert (first + second, third) == (3, 0)
    assert min(first, second) > 0


@pytest.mark.parametrize("net", NETS)
def test_grad_flow_is_that_of_its_code(net: str) -> None:
    """It adds the mean gradients of four batches twice, so its Hg is 16 times that of the mean of all samples."""
    model, x, y = published(net)
    ours = pbt_bench.score(model, batches(x, y, 15, 15, 15, 15), method="grad_flow", temperature=1.0)
    theirs = published_values("grad_flow")[f"score/{net}"]
    assert error({name: 16 * score for name, score in ours.items()}, theirs) < EXACT


class Tokens(nn.Module):
    """A residual block of two linear layers on eight tokens of eight numbers, and a linear layer on their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.head = nn.Linear(8, 20), nn.Linear(20, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, 0]
        return self.head((x + self.down(F.relu(self.up(x)))).mean(1))


@pytest.mark.parametrize("method", ["wanda", "ria"])
def test_wanda_and_ria_are_those_of_their_code(method: str) -> None:
    _, x, y = published("conv")
    golden = published_values(method)
    model = Tokens().double()
    model.load_state_dict({key.removeprefix("state/"): value for key, value in golden["state"].items()})
    ours = pbt_bench.score(model, batches(x, y, 20, 40), method=method)
    assert error(ours, golden["score"]) < EXACT


def test_input_norms_of_a_grouped_convolution_are_those_of_its_patches() -> None:
    torch.manual_seed(0)
    model = Odd().double()
    x = torch.randn(6, 4, 7, 7).double()
    ours = pbt_bench.score(model, [(x, torch.arange(6) % 5)], method="wanda")
    patches = F.unfold(F.pad(x, (2, 2, 1, 1)), (3, 3), dilation=(1, 2), stride=(2, 1))  # [6, 4 · 9, positions]
    norms = (patches.square().sum((0, 2)) / 6).sqrt().view(2, 1, 2, 3, 3).expand(2, 4, 2, 3, 3).reshape(8, 2, 3, 3)
    expected = model.grouped.weight.detach().abs() * norms
    assert error({"grouped": ours["grouped.weight"]}, {"grouped": expected}) < EXACT


def test_relative_weights_of_groups_and_transposed_convolutions() -> None:
    torch.manual_seed(0)
    plain, grouped = nn.Conv2d(4, 6, 3), nn.Conv2d(8, 12, 3, groups=2)
    grouped.weight.data = torch.cat([plain.weight.data, plain.weight.data.flip(0)])
    back = nn.ConvTranspose2d(4, 6, 3)
    back.weight.data = plain.weight.data.transpose(0, 1)

    def ria(layer: nn.Module, channels: int) -> Tensor:
        model = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(3)).double()
        x = torch.ones(2, channels, 5, 5).double()
        model(x)
        (first, *_) = pbt_bench.score(model, [(x, torch.arange(2))], method="ria", input_power=0.0).values()
        return first

    expected = ria(plain, 4)
    assert torch.allclose(ria(grouped, 8), torch.cat([expected, expected.flip(0)]))
    assert torch.allclose(ria(back, 4), expected.transpose(0, 1))


@pytest.mark.parametrize("net", NETS)
def test_px_is_that_of_its_code(net: str) -> None:
    model, x, y = published(net)
    golden = published_values("px")
    data = batches(x, y, 20, 20, 20)
    assert error(pbt_bench.score(model, data, method="px"), golden[f"score/{net}"]) < EXACT
    for sparsity in (0.5, 0.9, 0.98):
        ours = pbt_bench.prune(model, data, method="px", sparsity=sparsity, rounds=7)
        for name, mask in golden[f"mask/{net}.7_rounds.{sparsity}"].items():
            assert torch.equal(ours[name], mask), f"{sparsity} {name}"


@pytest.mark.parametrize("net", NETS)
def test_channels_of_snip_structured_are_those_of_its_code(net: str) -> None:
    model, x, y = published(net)
    ours = pbt_bench.score(model, batches(x, y, 30, 30), method="snip_structured")
    theirs = published_values("snip_structured")[f"score/{net}"]
    assert error({name: score.flatten(1).sum(1) for name, score in ours.items()}, theirs) < EXACT


def test_channels_of_a_transposed_convolution_with_groups_are_gated() -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(6 * 49, 3)).double()
    x, y = torch.randn(4, 4, 5, 5).double(), torch.tensor([0, 1, 2, 0])
    ours = pbt_bench.score(model, [(x, y)], method="snip_structured")["0.weight"]
    loss = F.cross_entropy(model(x), y)
    (gradient,) = torch.autograd.grad(loss, layer.weight)
    channels = (layer.weight.detach() * gradient).view(2, 2, 3, 9).sum((1, 3), keepdim=True).abs() / 18
    assert torch.allclose(ours, channels.expand(2, 2, 3, 9).reshape(ours.shape))


@pytest.mark.parametrize("sparsity", [0.5, 0.75])
@pytest.mark.parametrize("net", NETS)
def test_edge_popup_is_that_of_its_code(net: str, sparsity: float) -> None:
    model, x, y = published(net)
    golden = published_values("edge_popup")
    data = batches(x, y, 20, 20, 20)
    options = {"score_epochs": 10}
    scorer = Scorer(model, data, Scoring(batchnorm="batch"), 0)
    total = sum(p.numel() for p in scorer.task.parameters.values())
    task = replace(scorer.task, sparsity=sparsity, kept=round((1 - sparsity) * total))
    with preserved(model):
        found = compute(task, ["popup_score"], options)["popup_score"].values
    assert error(found, golden[f"score/{net}.{sparsity}"]) < EXACT
    masks = scorer.prune("edge_popup", sparsity, options=options).masks
    for name, mask in golden[f"mask/{net}.{sparsity}"].items():
        assert torch.equal(masks[name], mask), name


@pytest.mark.parametrize(
    ("net", "sparsity"), [("conv", 0.9), ("conv", 0.95), ("convbn", 0.95), ("res", 0.5), ("res", 0.95)]
)
def test_dpai_is_that_of_its_code(net: str, sparsity: float) -> None:
    model, x, y = published(net)
    golden = published_values("dpai")
    options = {"score_steps": 25, "score_learning_rate": 0.05}
    scorer = Scorer(model, [(x, y)], Scoring(), 0)
    masks = scorer.prune("dpai", sparsity, options=options).masks
    for name, mask in golden[f"mask/{net}.{sparsity}"].items():
        assert torch.equal(masks[name], mask), name
    if f"score/{net}.{sparsity}" in golden:
        total = sum(p.numel() for p in scorer.task.parameters.values())
        task = replace(scorer.task, sparsity=sparsity, kept=total - pruned_count(sparsity, total))
        with preserved(model):
            found = compute(task, ["node_path_score"], options)["node_path_score"].values
        assert error(found, golden[f"score/{net}.{sparsity}"]) < EXACT


def test_dpai_prefers_weights_on_paths_with_transposed_convolutions_and_groups() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3, groups=2), nn.Flatten())
    model.append(nn.Linear(4 * 25, 3))
    effective = []
    for steps in (0, 40):
        options = {"score_steps": steps, "score_learning_rate": 0.05}
        masks = pbt_bench.prune(
            model, [(torch.ones(3, 4, 5, 5), torch.arange(3))], method="dpai", sparsity=0.9, options=options
        )
        effective.append(pbt_bench.diagnose(model, masks, torch.ones(1, 4, 5, 5)).effective_sparsity)
    assert effective[1] < effective[0]


@pytest.mark.parametrize("method", SEARCHES)
def test_searched_masks_are_exact_and_reproducible_and_leave_the_model_as_it_is(method: str) -> None:
    net, x, y, _ = golden()
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    options = {"score_steps": 20} if method == "dpai" else {}
    for sparsity in (0.5, 0.95):
        torch.manual_seed(1)
        masks, again = (
            pbt_bench.prune(net, batches(x, y, 24, 24), method=method, sparsity=sparsity, options=options)
            for _ in range(2)
        )
        assert sum(int((~mask).sum()) for mask in masks.values()) == int(sparsity * 3832)
        assert all(torch.equal(masks[name], again[name]) for name in masks)
    few = pbt_bench.prune(net, batches(x, y, 48), method=method, sparsity=0.9, prune_classifier=False, options=options)
    assert sum(int((~mask).sum()) for mask in few.values()) == int(0.9 * 3672)
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    pruners()[method].check()


def merit(counts: Tensor, paths: Tensor, alpha: float, beta: float, positions: int) -> float:
    """Return what node-path balancing maximises; `counts` is [inputs, outputs]."""
    kept, (inputs, outputs) = int(counts.sum()), counts.shape
    used = int((counts.sum(1) > 0).sum() + (counts.sum(0) > 0).sum())
    ordered, full = paths.sort(descending=True).values, kept // (outputs * positions)
    most = (ordered[:full].sum() if full else paths.sum()) * outputs * positions
    most += (kept - full * outputs * positions) * ordered[full]
    kernels = int((counts > 0).sum()) / kept
    return float(
        alpha * used / (inputs + outputs) + (1 - alpha) * (counts.sum(1) * paths).sum() / most + beta * kernels
    )


@pytest.mark.parametrize("layer", range(9))
def test_npb_attains_the_optimum_of_its_code_in_a_layer(layer: int) -> None:
    """The optimum is not unique, so masks may differ."""
    golden = published_values("npb")[str(layer)]
    theirs = golden["mask"].reshape(*golden["mask"].shape[:2], -1)
    alpha, beta = golden["alpha_beta"].tolist()
    paths = golden["inputs"].reshape(len(golden["inputs"]), -1).sum(1)
    counts = theirs.sum(2).T
    generator = torch.Generator().manual_seed(0)
    ours = balanced(paths, 1, len(theirs), theirs.shape[2], int(counts.sum()), alpha, beta, generator)
    assert int(ours.sum()) == int(counts.sum())
    assert int(ours.max()) <= theirs.shape[2]
    expected = merit(counts, paths, alpha, beta, theirs.shape[2])
    assert abs(merit(ours, paths, alpha, beta, theirs.shape[2]) - expected) < 1e-6 * expected


def test_npb_places_weights_on_paths_of_the_masks_before() -> None:
    model, x, y = published("res")
    masks = pbt_bench.prune(model, [(x, y)], method="npb", sparsity=0.95)
    assert pbt_bench.diagnose(model, masks, x).effective_sparsity < 0.96  # the code would repair the mask
    groups = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3, groups=2), nn.Flatten())
    groups.append(nn.Linear(4 * 25, 3))
    masks = pbt_bench.prune(groups, [(torch.ones(3, 4, 5, 5), torch.arange(3))], method="npb", sparsity=0.8)
    assert pbt_bench.diagnose(groups, masks, torch.ones(1, 4, 5, 5)).connected


@pytest.mark.parametrize("choice", ["max", "rand"])
@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.98])
@pytest.mark.parametrize("net", ["convbn", "res"])
def test_mica_is_that_of_its_code(net: str, sparsity: float, choice: str) -> None:
    model, x, y = published(net)
    scorer = Scorer(model, [(x, y)], Scoring(), 0)
    masks = scorer.prune("mica", sparsity, options={"output_channels": choice}).masks
    for name, mask in published_values("mica")[f"mask/{net}.{sparsity}.{choice}"].items():
        assert torch.equal(masks[name], mask), name


def test_mica_keeps_more_live_weights_than_random_pruning_and_refuses_groups() -> None:
    model, x, y = published("res")
    sparsities = []
    for method in ("mica", "random_erk"):
        masks = pbt_bench.prune(model, [(x, y)], method=method, sparsity=0.98)
        sparsities.append(pbt_bench.diagnose(model, masks, x).effective_sparsity)
    assert sparsities[0] < sparsities[1]
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3))
    data = [(torch.ones(3, 3, 2, 2), torch.arange(3))]
    masks = pbt_bench.prune(mlp, data, method="mica", sparsity=0.9, prune_classifier=False)
    assert pbt_bench.diagnose(mlp, masks, data[0][0]).connected
    groups = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(RequestError, match=r"convolutions without groups, but 0\.weight has 2"):
        pbt_bench.prune(groups, [(torch.ones(3, 4, 2, 2), torch.arange(3))], method="mica", sparsity=0.5)

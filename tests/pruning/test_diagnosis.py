"""Diagnosis against brute force: paths counted by hand, live weights found by changing them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import ConvNet, Odd, batches, golden
from torch import Tensor, nn

import pbt_bench
from pbt_bench.errors import RequestError, SparsityError, note_once
from pbt_bench.pruning.diagnosis import all_kept, realised_sparsity


class Residual(nn.Module):
    """A residual block with maximum pooling between two convolutions, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.inner = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 2)
        x = F.relu(x + self.inner(x))
        return self.head(x.mean((2, 3)))


def brute_force_live(model: nn.Module, masks: dict[str, Tensor], example: Tensor) -> dict[str, Tensor]:
    """A weight is live if, in the network with random positive kept weights, no biases and no normalisation
    shift, both its own value and the input move the output through it."""
    torch.manual_seed(0)
    model = model.double().eval()
    generator = torch.Generator().manual_seed(3)
    state = {}
    for name, p in model.named_parameters():
        state[name] = torch.zeros_like(p)
        if name in masks:
            state[name] = (torch.rand(p.shape, generator=generator, dtype=torch.float64) + 0.5) * masks[name]
        elif name.endswith("weight"):
            state[name] = torch.ones_like(p)
    model.load_state_dict({**model.state_dict(), **state})
    with torch.no_grad():
        base = model(torch.ones_like(example[:1]).double())
        live = {}
        for name, mask in masks.items():
            parameter = dict(model.named_parameters())[name]
            live[name] = torch.zeros_like(mask)
            for place in mask.nonzero():
                index = tuple(place.tolist())
                old = float(parameter[index])
                parameter[index] = old * 2
                live[name][index] = bool((model(torch.ones_like(example[:1]).double()) != base).any())
                parameter[index] = old
    return live


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8, 0.9, 0.95, 0.97])
@pytest.mark.parametrize("make", [Residual, ConvNet], ids=["residual", "convnet"])
def test_effective_sparsity_and_connection_equal_brute_force(make: type[nn.Module], sparsity: float) -> None:
    torch.manual_seed(5)
    model, channels = make(), 2 if make is Residual else 3
    x, y = torch.randn(4, channels, 8, 8), torch.randint(2, (4,))
    masks = pbt_bench.prune(model, batches(x, y, 4), method="random", sparsity=sparsity)
    found = pbt_bench.diagnose(model, masks, x)
    live = brute_force_live(model, masks, x)
    assert {layer.name: layer.live for layer in found.layers} == {name: int(m.sum()) for name, m in live.items()}
    assert found.connected == any(bool(m.any()) for m in live.values())
    total = sum(m.numel() for m in masks.values())
    assert found.effective_sparsity == 1 - sum(int(m.sum()) for m in live.values()) / total


def test_a_residual_network_survives_an_empty_layer_and_a_chain_does_not() -> None:
    model = Residual()
    masks = all_kept(model)
    masks["inner.weight"][:] = False
    found = pbt_bench.diagnose(model, masks, torch.randn(1, 2, 8, 8))
    assert found.collapsed_layers == ("inner.weight",)
    assert found.connected
    masks["head.weight"][:] = False
    found = pbt_bench.diagnose(model, masks, torch.randn(1, 2, 8, 8))
    assert not found.connected
    assert found.effective_sparsity == 1


def test_no_empty_layer_and_yet_no_path() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    masks = {"0.weight": torch.tensor([[True, True], [False, False]]), "2.weight": torch.tensor([[False, True]] * 2)}
    found = pbt_bench.diagnose(model, masks, torch.randn(1, 2))
    assert found.collapsed_layers == ()
    assert not found.connected
    assert found.effective_sparsity == 1


def test_flops_count_positions_times_weights() -> None:
    model = ConvNet()
    masks = all_kept(model)
    masks["conv2.weight"][:, :4] = False
    found = pbt_bench.diagnose(model, masks, torch.randn(1, 3, 12, 12))
    conv1, conv2, conv3, linear = 144 * 216, 36 * 1152, 36 * 2304, 160
    assert found.flops_dense == 2 * (conv1 + conv2 + conv3 + linear)
    assert found.flops_sparse == 2 * (conv1 + conv2 // 2 + conv3 + linear)
    without = pbt_bench.diagnose(model, all_kept(model, prune_classifier=False), torch.randn(1, 3, 12, 12))
    assert without.flops_dense == found.flops_dense


def test_a_layer_that_is_not_used_has_neither_flops_nor_live_weights() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(3, 2), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    found = pbt_bench.diagnose(Unused(), all_kept(Unused()), torch.randn(1, 3))
    assert [(layer.live, layer.flops_dense) for layer in found.layers] == [(6, 12), (0, 0)]
    assert (found.flops_dense, found.flops_sparse) == (12, 12)
    assert found.effective_sparsity == 1 - 6 / 16


def test_sparsity_and_densities_are_shares_of_the_masks() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 1))
    masks = {"0.weight": torch.tensor([[True, False, False, True], [True] * 4]), "1.weight": torch.ones(1, 2) > 0}
    found = pbt_bench.diagnose(model, masks, torch.randn(1, 4))
    assert (found.kept, found.prunable, found.sparsity) == (8, 10, 1 - 8 / 10)
    assert [layer.density for layer in found.layers] == [0.75, 1]
    assert [(layer.shape, layer.kept, layer.prunable) for layer in found.layers] == [((2, 4), 6, 8), ((1, 2), 2, 2)]


def test_what_cannot_be_diagnosed_is_refused() -> None:
    model, x = nn.Linear(3, 2), torch.randn(1, 3)
    masks = all_kept(model)
    with pytest.raises(RequestError, match="mask of weight: torch.float32"):
        pbt_bench.diagnose(model, {"weight": masks["weight"].float()}, x)
    with pytest.raises(RequestError, match="there are no masks to diagnose"):
        pbt_bench.diagnose(model, {}, x)
    with pytest.raises(RequestError, match="there are no scores of weight"):
        pbt_bench.diagnose(model, masks, x, {})
    for example in (x.tolist(), x[:0]):
        with pytest.raises(RequestError, match=f"the example is {type(example).__name__}, not a tensor"):
            pbt_bench.diagnose(model, masks, example)  # type: ignore[arg-type]


def test_flops_of_unusual_layers() -> None:
    torch.manual_seed(0)
    model = Odd()
    x = torch.randn(3, 4, 9, 7)
    found = pbt_bench.diagnose(model, all_kept(model), x)
    by_name = {layer.name: layer.flops_dense for layer in found.layers}
    positions = 5 * 7  # stride (2, 1), padding (1, 2), dilation (1, 2)
    assert by_name["grouped.weight"] == 2 * positions * 8 * 2 * 9
    assert by_name["tokens.weight"] == 2 * positions * 64
    assert by_name["depthwise.weight"] == 2 * 2 * positions * 8 * 9  # used twice
    assert by_name["twin.weight"] == 2 * 2 * 36  # tied: used twice
    assert by_name["line.weight"] == 2 * 18 * 6 * 8 * 3


def test_the_model_is_not_changed_and_masks_are_checked() -> None:
    net, x, _, _ = golden()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    masks = all_kept(net)
    pbt_bench.diagnose(net, masks, x)
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())
    with pytest.raises(RequestError, match="mask of conv1.weight: torch.float32"):
        pbt_bench.apply(net, {"conv1.weight": torch.ones(8, 3, 3, 3)})
    with pytest.raises(RequestError, match="differ: nothing"):
        pbt_bench.apply(net, masks | {"nothing": torch.ones(1, dtype=torch.bool)})


def test_realised_sparsity_is_measured_and_a_leak_is_an_error() -> None:
    net, x, y, _ = golden()
    masks = pbt_bench.prune(net, batches(x, y, 48), method="magnitude", sparsity=0.9)
    with pytest.raises(SparsityError, match="pruned weights are not zero"):
        realised_sparsity(dict(net.named_parameters()), masks)
    pbt_bench.apply(net, masks)
    assert (
        realised_sparsity(dict(net.named_parameters()), masks) == 1 - sum(int(m.sum()) for m in masks.values()) / 3832
    )


@pytest.mark.parametrize("leak", [1e-3, 1e-12, -1e-45])
def test_a_pruned_weight_that_is_almost_zero_is_a_leak(leak: float) -> None:
    model = nn.Linear(3, 2)
    masks = {"weight": torch.tensor([[True, False, True], [True, True, True]])}
    pbt_bench.apply(model, masks)
    assert realised_sparsity(dict(model.named_parameters()), masks) == pytest.approx(1 / 6)
    model.weight.data[0, 1] = leak
    with pytest.raises(SparsityError, match="layer 'weight': 1 pruned weights are not zero"):
        realised_sparsity(dict(model.named_parameters()), masks)


def test_report_for_people_names_collapsed_layers() -> None:
    model = Residual()
    masks = all_kept(model)
    masks["inner.weight"][:] = False
    text = str(pbt_bench.diagnose(model, masks, torch.randn(1, 2, 8, 8)))
    assert "inner.weight" in text
    assert text.count("collapsed") == 2


def test_zero_scores_are_shown_when_scores_are_given() -> None:
    net, x, y, _ = golden()
    scores = pbt_bench.score(net, batches(x, y, 48), method="snip")
    scores["conv1.weight"][0] = 0
    found = pbt_bench.diagnose(net, all_kept(net), x, scores)
    assert found.layers[0].zero_scores == int((scores["conv1.weight"] == 0).sum()) >= 27
    assert "zero scores" in str(found)
    assert "zero scores" not in str(pbt_bench.diagnose(net, all_kept(net), x))


@pytest.mark.parametrize("fused", [False, True], ids=["nn.MultiheadAttention", "scaled_dot_product_attention"])
def test_attention_is_followed(fused: bool) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(6, 8)
            self.mix = nn.MultiheadAttention(8, 2, batch_first=True)
            self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.norm = nn.LayerNorm(8)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            if fused:
                x = F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))
            else:
                x = self.mix(x, x, x, need_weights=False)[0]
            return self.head(self.norm(x).mean(1))

    torch.manual_seed(0)
    model, x = Attention(), torch.randn(2, 5, 6)
    inner = ("query", "key", "value") if fused else ("mix",)
    masks = {name: mask for name, mask in all_kept(model).items() if name.split(".")[0] in ("embed", "head", *inner)}
    found = pbt_bench.diagnose(model, masks, x)
    assert found.effective_sparsity == 0
    tokens = 5 * 6 * 8 + (3 * 5 * 64 if fused else 5 * 64)
    assert found.flops_dense == found.flops_sparse == 2 * (tokens + 24) + (0 if fused else 2 * 3 * 5 * 64)
    last = "value.weight" if fused else "mix.out_proj.weight"
    masks[last][:, :] = False
    found = pbt_bench.diagnose(model, masks, x)
    assert not found.connected
    assert found.effective_sparsity == 1
    masks[last][2, 3] = True
    found = pbt_bench.diagnose(model, masks, x)
    assert {layer.name: layer.live for layer in found.layers}["head.weight"] == 3
    assert found.connected


@pytest.mark.parametrize("method", ["snip", "fts", "grasp", "hts", "prospr", "ntk_sap", "synflow", "force"])
def test_methods_take_a_transformer(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(6, 8)
            self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(self.embed(x)).mean(1))

    note_once.cache_clear()
    torch.manual_seed(0)
    model, x, y = Transformer(), torch.randn(7, 5, 6), torch.randint(3, (7,))
    options: dict[str, Any] = {"probes": 3} if method == "hts" else {}
    masks = pbt_bench.prune(model, batches(x, y, 4, 3), method=method, sparsity=0.8, rounds=3, **options)
    assert sum(int((~m).sum()) for m in masks.values()) == int(0.8 * sum(m.numel() for m in masks.values()))
    assert 0 <= pbt_bench.diagnose(model, masks, x).effective_sparsity <= 1
    if method == "fts":
        assert capsys.readouterr().err == "", "nothing is computed one sample at a time"

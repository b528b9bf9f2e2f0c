"""Tests of live weights and connectivity on networks that are not chains, against an oracle that changes inputs.

The oracle gives every parameter a random value, kept weights included, and runs the network on two inputs. A weight is
live if its factor differs between the two, and the output has a gradient with respect to their product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pbt_bench
from pbt_bench.errors import note_once
from pbt_bench.models import build
from pbt_bench.models.prunable import prunable
from pbt_bench.pruning.diagnosis import all_kept

Net = Callable[["Wired", Tensor], Tensor]


class Wired(nn.Module):
    """Modules, and a function that wires them."""

    def __init__(self, wires: Net, **members: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, member in members.items():
            setattr(self, name, member)
        self.wires = wires

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)

    def forward(self, x: Tensor) -> Tensor:
        return self.wires(self, x)


def oracle(model: nn.Module, masks: dict[str, Tensor], shape: tuple[int, ...]) -> tuple[dict[str, int], bool]:
    model = model.double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * masks.get(name, 1))
    owners = {n: m for m in model.modules() for n, p in prunable(model).items() if m._parameters.get("weight") is p}
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in owners}
    hooks = [
        module.register_forward_hook(lambda m, inputs, result, name=name: seen[name].append((inputs[0], result)))
        for name, module in owners.items()
    ]
    first, second = (model(torch.randn(shape, generator=generator, dtype=torch.float64)) for _ in range(2))
    for hook in hooks:
        hook.remove()
    live = {}
    for name, module in owners.items():
        if not seen[name]:
            continue
        (before, result), (after, _) = seen[name]
        weights = torch.randn(first.shape, generator=generator, dtype=first.dtype)
        (delta,) = torch.autograd.grad((first * weights).sum(), result, retain_graph=True)
        (found,) = torch.autograd.grad((module((after - before).detach()) * delta).sum(), module.weight)  # type: ignore[arg-type]
        live[name] = int(((found.abs() > 1e-12) & masks[name]).sum())
    return live, bool(((first - second).abs() > 1e-12).any())


def compare(model: nn.Module, sparsity: float, shape: tuple[int, ...]) -> None:
    """Compare five random masks, without layers that the network does not use."""
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        masks = {n: torch.rand(p.shape, generator=generator) >= sparsity for n, p in prunable(model).items()}
        live, connected = oracle(model, masks, shape)
        found = pbt_bench.diagnose(model, masks, torch.randn(shape))
        assert {layer.name: layer.live for layer in found.layers if layer.live or layer.name in live} == live
        assert found.connected == connected


def crelu(m: Wired, x: Tensor) -> Tensor:
    x = m.a(x)
    return m.wide(torch.tanh(torch.cat([x, -x], 1)))


def centred(m: Wired, x: Tensor) -> Tensor:
    x = torch.tanh(m.a(x))
    return m.c(x - x.mean(1, keepdim=True))


def chosen(m: Wired, x: Tensor) -> Tensor:
    x = m.a(x)
    return m.c(torch.where(x > 0, x, -0.5 * x))


def masked(m: Wired, x: Tensor) -> Tensor:
    x = m.a(x) - 100
    return m.c(x * (x < 0))


def written(m: Wired, x: Tensor) -> Tensor:
    out = torch.full((len(x), 8), -3.0, dtype=x.dtype)
    out[:, ::2] = torch.tanh(m.a(x))
    return m.wide(out)


FEATURES: dict[str, Net] = {
    "x - y": lambda m, x: m.c(torch.tanh(m.a(x)) - torch.tanh(m.b(x))),
    "1 - x": lambda m, x: m.c(1 - torch.tanh(m.a(x))),
    "-x": lambda m, x: m.c(-torch.tanh(m.a(x))),
    "CReLU": crelu,
    "centred": centred,
    "where": chosen,
    "written in parts": written,
    "masked": masked,
    "in place": lambda m, x: m.c(torch.tanh((m.a(x) + 1).sub_(3).mul_(-0.5))),
    "learned scale": lambda m, x: m.c(x + m.scale * torch.tanh(m.a(x))),
    "learned token": lambda m, x: m.wide(torch.tanh(torch.cat([m.a(x), m.scale.expand(len(x), -1)], 1))),
    "x / y": lambda m, x: m.c(torch.tanh(m.a(x)) / (3 + torch.tanh(m.b(x)))),
    "1 / x": lambda m, x: m.c(1 / (3 + torch.tanh(m.a(x)))),
    "x ** 2": lambda m, x: m.c(m.a(x) ** 2),
    "cos": lambda m, x: m.c(torch.cos(m.a(x))),
    "maximum": lambda m, x: m.c(torch.logaddexp(m.a(x), m.b(x))),
    "product": lambda m, x: m.c(torch.tanh(m.a(x)) * torch.sigmoid(m.b(x))),
    "product without biases": lambda m, x: m.c(F.silu(m.p(x)) * m.q(x)),
    "gate without biases": lambda m, x: m.c(torch.sigmoid(m.p(x)) * m.q(x)),
    "batch normalisation": lambda m, x: m.c(F.silu(m.norm(m.p(x))) * m.q(x)),
}


@pytest.mark.parametrize("sparsity", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("wires", FEATURES)
def test_live_weights_of_features_equal_the_oracle(wires: str, sparsity: float) -> None:
    model = Wired(
        FEATURES[wires],
        a=nn.Linear(4, 4),
        b=nn.Linear(4, 4),
        p=nn.Linear(4, 4, bias=False),
        q=nn.Linear(4, 4, bias=False),
        norm=nn.BatchNorm1d(4),
        scale=nn.Parameter(torch.zeros(4)),
        c=nn.Linear(4, 3),
        wide=nn.Linear(8, 3),
    )
    compare(model, sparsity, (2, 4))


def gated(m: Wired, x: Tensor) -> Tensor:
    x = torch.tanh(m.first(x))
    gate = torch.sigmoid(m.excite(torch.tanh(m.squeeze(x.mean((2, 3), keepdim=True)))))
    return m.head((x * gate).mean((2, 3)))


IMAGES: dict[str, Net] = {
    "squeeze and excitation": gated,
    "transposed": lambda m, x: m.head(torch.tanh(m.up(torch.tanh(m.first(x)))).logsumexp((2, 3))),
    "transposed in one dimension": lambda m, x: m.head(torch.tanh(m.line(m.first(x).flatten(2))).logsumexp(2)),
    "overlap": lambda m, x: m.head((m.first(x).unfold(3, 2, 1) - m.first.bias[0]).mean((2, 3, 4))),
}


@pytest.mark.parametrize("sparsity", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("wires", IMAGES)
def test_live_weights_of_images_equal_the_oracle(wires: str, sparsity: float) -> None:
    model = Wired(
        IMAGES[wires],
        first=nn.Conv2d(2, 4, (1, 2)),
        squeeze=nn.Conv2d(4, 2, 1),
        excite=nn.Conv2d(2, 4, 1),
        up=nn.ConvTranspose2d(4, 4, (3, 2), stride=(2, 1), padding=(1, 0), output_padding=(1, 0), groups=2),
        line=nn.ConvTranspose1d(4, 4, 3, stride=2, dilation=2, bias=False),
        head=nn.Linear(4, 3),
    )
    compare(model, sparsity, (2, 2, 3, 3))


def test_a_maximum_depends_on_all_its_candidates() -> None:
    def live(reduce: Callable[[Tensor], Tensor]) -> list[int]:
        model = Wired(lambda m, x: m.c(reduce(m.a(x))), a=nn.ConvTranspose1d(1, 2, 3, stride=3), c=nn.Linear(2, 2))
        return [layer.live for layer in pbt_bench.diagnose(model, all_kept(model), torch.randn(1, 1, 4)).layers]

    assert live(lambda x: x.mean(2)) == [6, 4]
    assert live(lambda x: x.amax(2)) == [6, 4]
    assert live(lambda x: x.max(dim=2).values) == [6, 4]
    assert live(lambda x: x.min(2)[0]) == [6, 4]
    assert live(lambda x: F.max_pool1d(x, 12).flatten(1)) == [6, 4]
    assert live(lambda x: F.adaptive_max_pool1d(x, 1).flatten(1)) == [6, 4]
    assert live(lambda x: x.std(2)) == [6, 4]


def test_a_gate_without_weights_is_a_constant_and_lets_the_other_factor_pass() -> None:
    torch.manual_seed(0)
    model = Wired(
        gated,
        first=nn.Conv2d(2, 4, 1),
        squeeze=nn.Conv2d(4, 2, 1),
        excite=nn.Conv2d(2, 4, 1),
        head=nn.Linear(4, 3),
    )
    masks = all_kept(model)
    masks["excite.weight"][:] = False
    found = pbt_bench.diagnose(model, masks, torch.randn(1, 2, 3, 3))
    assert found.connected
    assert {layer.name: layer.live for layer in found.layers} == {
        "first.weight": 8,
        "squeeze.weight": 0,
        "excite.weight": 0,
        "head.weight": 12,
    }


def test_learned_positions_start_no_path() -> None:
    model = build("vit-tiny", 3, 10, seed=0, size=16)
    masks = all_kept(model)
    assert pbt_bench.diagnose(model, masks, torch.randn(1, 3, 16, 16)).effective_sparsity == 0
    masks["patches.weight"][:] = False
    found = pbt_bench.diagnose(model, masks, torch.randn(1, 3, 16, 16))
    assert not found.connected
    assert found.effective_sparsity == 1


def test_normalisation_passes_units_through() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    masks = all_kept(model)
    masks["0.weight"][1:] = False
    found = pbt_bench.diagnose(model, masks, torch.randn(1, 2))
    assert [layer.live for layer in found.layers] == [2, 2]


def test_attention_by_hand_sees_no_difference_between_equal_constants() -> None:
    def attend(m: Wired, x: Tensor) -> Tensor:
        scores = m.query(x) @ m.key(x).transpose(1, 2) / 2
        scores = scores.masked_fill(torch.ones(3, 3).triu(1).bool(), float("-inf"))
        return m.head((scores.softmax(-1) @ m.value(x)).mean(1))

    model = Wired(
        attend, query=nn.Linear(4, 4), key=nn.Linear(4, 4), value=nn.Linear(4, 4), head=nn.Linear(4, 2, bias=False)
    )
    masks, x = all_kept(model), torch.randn(1, 3, 4)
    assert pbt_bench.diagnose(model, masks, x).effective_sparsity == 0
    masks["value.weight"][:] = False
    assert not pbt_bench.diagnose(model, masks, x).connected
    masks["value.weight"][0] = True
    assert [layer.live for layer in pbt_bench.diagnose(model, masks, x).layers] == [16, 16, 4, 2]


def test_paths_start_at_tokens_and_not_at_positions() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(5, 4), nn.Embedding(3, 4)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.words.weight

        def forward(self, x: Tensor) -> Tensor:
            places = self.places(torch.arange(x.shape[1])[None])
            return self.head((self.words(x[:, :3]) + places).mean(1))

    model, x = Tokens(), torch.randint(5, (2, 3))
    masks = all_kept(model)
    masks["words.weight"][:, 1:] = False
    found = pbt_bench.diagnose(model, masks, x)
    assert found.connected
    assert found.layers[0].live == 5
    masks["words.weight"][:] = False
    assert not pbt_bench.diagnose(model, masks, x).connected


def test_weights_may_be_derived_from_the_prunable_ones_and_parts_may_be_frozen() -> None:
    def wires(m: Wired, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = torch.tanh(m.a(x))
        return F.linear(x, -2 * m.c.weight * torch.eye(3), m.c.bias)

    model = Wired(wires, a=nn.Linear(2, 3), c=nn.Linear(3, 3))
    masks = all_kept(model)
    masks["a.weight"][0] = False
    found = pbt_bench.diagnose(model, masks, torch.randn(1, 2))
    assert [layer.live for layer in found.layers] == [4, 2]
    assert found.connected


def test_an_unknown_function_is_named_once_and_mixes(capsys: pytest.CaptureFixture[str]) -> None:
    note_once.cache_clear()
    model = Wired(lambda m, x: m.c(m.lstm(m.a(x))[0][:, -1]), a=nn.Linear(3, 3), c=nn.Linear(4, 2))
    model.lstm = nn.LSTM(3, 4, batch_first=True)
    masks, x = all_kept(model), torch.randn(1, 5, 3)
    masks["a.weight"][1:] = False
    for _ in range(2):
        found = pbt_bench.diagnose(model, masks, x)
        assert [layer.live for layer in found.layers] == [3, 8]
    assert capsys.readouterr().err.count("'lstm'") == 1


def test_flops_of_transposed_convolutions() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(2, 6, 3, stride=2, groups=2), nn.Flatten(), nn.Linear(6 * 9 * 7, 2))
    found = pbt_bench.diagnose(model, all_kept(model), torch.randn(1, 2, 4, 3))
    assert found.layers[0].flops_dense == 2 * (4 * 3) * (2 * 3 * 9)

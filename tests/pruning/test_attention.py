"""Tests of `nn.MultiheadAttention` against networks that compute the same with four linear layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from few_images import few
from networks import batches, scored_methods
from torch import Tensor, nn
from torch.nn.utils import prune

import pbt_bench
from pbt_bench.errors import RequestError, note_once
from pbt_bench.linear_maps import Intercept
from pbt_bench.models.prunable import Masks, packed_projections, prunable
from pbt_bench.models.vit import VisionTransformer
from pbt_bench.pruning.diagnosis import all_kept
from pbt_bench.pruning.group_gradients import group_sums
from pbt_bench.pruning.plugins import pruners
from pbt_bench.spec import Recipe
from pbt_bench.training.stepper import Stepper

METHODS = [name for name in scored_methods() if name != "phew"]
OPTIONS: dict[str, dict[str, Any]] = {name: {"probes": 2} for name in METHODS if "h" in name[0]}
KINDS = ("packed", "tokens first", "separate", "extra", "unbiased", "zero")


class Linears(nn.Module):
    """The function of an `nn.MultiheadAttention`, from separate linear layers with the same weights."""

    def __init__(self, of: nn.MultiheadAttention) -> None:
        super().__init__()
        width, bias = of.embed_dim, of.in_proj_bias is not None
        self.heads, self.tokens_first, self.add_zero_attn = of.num_heads, not of.batch_first, of.add_zero_attn
        self.q, self.k, self.v = (nn.Linear(size, width, bias) for size in (width, of.kdim, of.vdim))
        self.out = copy.deepcopy(of.out_proj)
        self.bias_k, self.bias_v = of.bias_k, of.bias_v
        packed = of.in_proj_weight.chunk(3) if of._qkv_same_embed_dim else (0, 0, 0)
        for index, layer in enumerate((self.q, self.k, self.v)):
            separate = getattr(of, f"{'qkv'[index]}_proj_weight")
            layer.weight = nn.Parameter((packed[index] if separate is None else separate).detach().clone())
            if bias:
                layer.bias = nn.Parameter(of.in_proj_bias.chunk(3)[index].detach().clone())

    def forward(self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = True) -> tuple[Tensor, None]:
        if self.tokens_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        q, k, v = self.q(query), self.k(key), self.v(value)
        if self.bias_k is not None:
            k, v = (torch.cat([t, b.expand(len(t), 1, -1)], 1) for t, b in ((k, self.bias_k), (v, self.bias_v)))
        if self.add_zero_attn:
            k, v = (torch.cat([t, torch.zeros_like(t[:, :1])], 1) for t in (k, v))
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        mixed = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return mixed.transpose(0, 1) if self.tokens_first else mixed, None


class Network(nn.Module):
    """Self-attention, used twice, attention of three learned queries to its result, and a classifier."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        options: dict[str, Any] = {"batch_first": kind != "tokens first", "bias": kind != "unbiased"}
        if kind in ("extra", "zero"):
            options |= {"add_bias_kv": kind == "extra", "add_zero_attn": kind == "zero"}
        other = {"kdim": 12, "vdim": 12} if kind == "separate" else {}
        self.embed = nn.Linear(6, 8)
        self.first = nn.MultiheadAttention(8, 2, **options)
        self.wide = nn.Linear(8, 12 if other else 8)
        self.queries = nn.Parameter(torch.randn(3, 8))
        self.second = nn.MultiheadAttention(8, 4, **options, **other)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = not self.first.batch_first if isinstance(self.first, nn.MultiheadAttention) else self.first.tokens_first

        def attend(attention: nn.Module, *given: Tensor, **options: bool) -> Tensor:
            given = tuple(t.transpose(0, 1) for t in given) if first else given
            result: Tensor = attention(given[0], given[-2], given[-1], **options)[0]
            return result.transpose(0, 1) if first else result

        x = self.embed(x)
        x = x + attend(self.first, x, x)
        x = torch.tanh(self.wide(x + attend(self.first, x, x)))
        x = attend(self.second, self.queries.expand(len(x), -1, -1), x, x.sin(), need_weights=False)
        return self.head(x.mean(1))


def pair(kind: str) -> tuple[nn.Module, nn.Module]:
    """Return a network with `nn.MultiheadAttention` and its equivalent, in float64."""
    torch.manual_seed(0)
    model = Network(kind).double()
    for name, parameter in model.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter)
    return model, separate(model)


def separate(model: nn.Module) -> nn.Module:
    """Return a copy with linear layers in place of `nn.MultiheadAttention`."""
    equal = copy.deepcopy(model)
    for path, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            parent, _, name = path.rpartition(".")
            setattr(equal.get_submodule(parent), name, Linears(module))
    return equal


def joined(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of the equivalent network by the names and in the shapes of `model`."""
    left, found = list(tensors.values()), {}
    for name in prunable(model):
        count = 3 if name in packed_projections(model) else 1
        found[name] = torch.cat(left[:count])
        del left[:count]
    assert not left
    return found


def apart(model: nn.Module, equal: nn.Module, masks: Masks) -> Masks:
    """Return the masks of `model` by the names of the equivalent network."""
    packed = packed_projections(model)
    parts = [part for name, mask in masks.items() for part in (mask.chunk(3) if name in packed else [mask])]
    return dict(zip(prunable(equal), parts, strict=True))


def data(count: int = 7) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 5, 6, generator=generator, dtype=torch.float64)
    return batches(x, torch.arange(count) % 3, 4, count - 4)


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare scores, to the rounding errors of the largest one in a tensor."""
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-12 * float(tensor.detach().abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_equivalent_network_has_the_same_weights_and_outputs(kind: str) -> None:
    model, equal = pair(kind)
    inner = ["q_proj_weight", "k_proj_weight", "v_proj_weight"] if kind == "separate" else ["in_proj_weight"]
    first = ["first.in_proj_weight", "first.out_proj.weight"]
    second = [f"second.{name}" for name in (*inner, "out_proj.weight")]
    assert list(prunable(model)) == ["embed.weight", *first, "wide.weight", *second, "head.weight"]
    assert_equal(prunable(model), joined(model, prunable(equal)))
    assert list(prunable(model, prune_classifier=False)) == list(prunable(model))[:-1]
    x = data()[0][0]
    for mode in (True, False):
        torch.testing.assert_close(model.train(mode)(x), equal.train(mode)(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"attn_mask": torch.ones(4, 4).triu(1).bool()},
        {"attn_mask": torch.ones(4, 4).triu(1).bool(), "is_causal": True, "need_weights": False},
        {"attn_mask": torch.randn(2 * 3, 4, 4)},
        {"key_padding_mask": torch.tensor([[False, False, True, True]] * 3)},
        {"average_attn_weights": False},
        {"need_weights": False},
        {"one_example": True},
    ],
    ids=["mask", "causal", "float mask", "padding", "every head", "no weights", "one example"],
)
def test_intercepted_attention_is_that_of_pytorch(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    attention, x = nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True), torch.randn(3, 4, 8)
    if options == {"one_example": True}:
        x, options = x[0], {}
    expected = attention(x, x, x, **options)
    with Intercept({}):
        found = attention(x, x, x, **options)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_separate_linear_layers(method: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    note_once.cache_clear()
    model, equal = pair(kind)
    options = OPTIONS.get(method, {})
    found = pbt_bench.score(model, data(), method=method, **options)
    expected = pbt_bench.score(equal, data(), method=method, **options)
    assert_equal(found, joined(model, expected))
    assert "one group at a time" not in capsys.readouterr().err


@pytest.mark.parametrize("method", ["snip", "fts", "force", "iterative_snip", "ntk_sap", "random"])
@pytest.mark.parametrize("scope", ["global", "layer", "uniform", "erk"])
def test_masks_are_those_of_separate_linear_layers_in_every_scope(method: str, scope: str) -> None:
    model, equal = pair("packed")
    options: dict[str, Any] = {"method": method, "sparsity": 0.7, "scope": scope}
    if pruners()[method].rounds > 1:
        options["rounds"] = 4
    found, expected = (pbt_bench.prune(each, data(), **options) for each in (model, equal))
    for name, mask in joined(model, expected).items():
        assert torch.equal(found[name], mask), name


@pytest.mark.parametrize("pattern", ["channel", "2:4"])
def test_patterns_are_those_of_separate_linear_layers(pattern: str) -> None:
    model, equal = pair("packed")
    found, expected = (
        pbt_bench.prune(each, data(), method="snip", sparsity=0.5, pattern=pattern) for each in (model, equal)
    )
    for name, mask in joined(model, expected).items():
        assert torch.equal(found[name], mask), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 3])
def test_group_gradients_are_those_of_autograd(kind: str, size: int) -> None:
    model, _ = pair(kind)
    weights = prunable(model.eval())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in weights)

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, reduction="sum")

    sums, squares = group_sums(model, weights, data(), size, loss)
    x, y = (torch.cat(parts) for parts in zip(*data(), strict=True))
    total, square = ({name: torch.zeros_like(p) for name, p in weights.items()} for _ in range(2))
    for inputs, targets in zip(x.split(size), y.split(size), strict=True):
        own = torch.autograd.grad(loss(model(inputs), targets), list(weights.values()))
        for name, gradient in zip(weights, own, strict=True):
            total[name] += gradient
            square[name] += gradient.square()
    assert_equal(sums, total)
    assert_equal(squares, square)


class Misused(Network):
    """Attention among the samples, and a packed weight that is also used as a whole."""

    def __init__(self, tied: bool) -> None:
        super().__init__("packed" if tied else "tokens first")
        self.tied = tied

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.first(x, x, x)[0]
        y = y + F.linear(x, self.first.in_proj_weight)[..., :8] if self.tied else y
        return self.head(y.mean(1))


@pytest.mark.parametrize("tied", [False, True], ids=["samples attend to samples", "whole and in parts"])
def test_group_gradients_of_odd_uses_fall_back_to_their_definition(
    tied: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    note_once.cache_clear()
    torch.manual_seed(0)
    model = Misused(tied).double()
    found = pbt_bench.score(model, data(), method="fisher_diagonal")
    assert "first.in_proj_weight" in capsys.readouterr().err
    x, y = (torch.cat(parts) for parts in zip(*data(), strict=True))
    expected = torch.zeros_like(model.first.in_proj_weight)
    for inputs, targets in zip(x.split(1), y.split(1), strict=True):
        (own,) = torch.autograd.grad(F.cross_entropy(model.eval()(inputs), targets), [model.first.in_proj_weight])
        expected += own.square() / len(x)
    assert_equal({"": found["first.in_proj_weight"]}, {"": expected})


def masks_of(kind: str, model: nn.Module) -> Masks:
    """Return random masks, some with empty rows, columns or whole maps."""
    generator = torch.Generator().manual_seed(2)
    masks = all_kept(model)
    inner = [name for name in masks if "proj" in name]
    if kind == "random":
        return {name: torch.rand(mask.shape, generator=generator) > 0.8 for name, mask in masks.items()}
    if kind == "rows and columns":
        for name in inner:
            masks[name][::3] = False
            masks[name][:, 1::2] = False
        masks["embed.weight"][::2] = False
    elif kind == "no queries":
        for part in (masks[name] for name in inner if "in_proj" in name or "q_proj" in name):
            part[:8] = False
    elif kind == "no values":
        for name in inner:
            masks[name][-8:] = masks[name][-8:] & ("in_proj" not in name and "v_proj" not in name)
    return masks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", ["all", "random", "rows and columns", "no queries", "no values"])
def test_diagnosis_is_that_of_separate_linear_layers(kind: str, mask: str) -> None:
    model, equal = pair(kind)
    masks, x = masks_of(mask, model), data()[0][0]
    found = pbt_bench.diagnose(model, masks, x)
    expected = pbt_bench.diagnose(equal, apart(model, equal, masks), x)
    assert found.flops_dense == expected.flops_dense
    assert found.flops_sparse == expected.flops_sparse
    assert found.connected == expected.connected
    live = {layer.name: torch.tensor([layer.live]) for layer in expected.layers}
    by_tensor = {name: int(counts.sum()) for name, counts in joined(model, live).items()}
    assert {layer.name: layer.live for layer in found.layers} == by_tensor


def test_the_fused_functions_of_evaluation_mode_are_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(6, 8)
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(self.embed(x)).mean(1))

    def called(*_: Any, **__: Any) -> None:
        raise AssertionError("a fused function was called")

    torch.manual_seed(0)
    model = Encoder().eval().requires_grad_(False)
    x = data()[0][0].float()
    for name in ("_native_multi_head_attention", "_transformer_encoder_layer_fwd"):
        monkeypatch.setattr(torch, name, called)
    with torch.no_grad(), pytest.raises(AssertionError, match="fused"):
        model(x)
    found = pbt_bench.diagnose(model, all_kept(model), x)
    assert found.effective_sparsity == 0
    assert found.flops_dense == 2 * (5 * (6 * 8 + 2 * (4 * 8 * 8 + 2 * 8 * 16)) + 8 * 3)
    with torch.no_grad(), Intercept({}):
        model(x)


@pytest.mark.parametrize("method", METHODS)
def test_torchvisions_vision_transformer_is_scored(method: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3
    ).double()
    nn.init.normal_(model.heads.head.weight)  # zeros
    x = torch.randn(6, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    own = batches(x, torch.arange(6) % 3, 3, 3)
    options = OPTIONS.get(method, {})
    found, expected = (pbt_bench.score(each, own, method=method, **options) for each in (model, separate(model)))
    assert_equal(found, joined(model, expected))
    assert sum(score.numel() for score in found.values()) == 192 * 8 + 2 * (4 * 64 + 2 * 128) + 24
    masks = pbt_bench.prune(model, own, method="magnitude", sparsity=0.5)
    assert pbt_bench.diagnose(model, masks, x).connected


class Attended(nn.Sequential):
    """Attention of the inputs, and a classifier."""

    def __init__(self) -> None:
        super().__init__(nn.MultiheadAttention(6, 2), nn.Linear(6, 3))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self[1](self[0](x, x, x)[0].mean(1))


class OneInput(nn.MultiheadAttention):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x, need_weights=False)[0]


# NTK-SAP permutes, and LAMP and RIA compare, the weights of a layer: `qkv` of the shipped network is one layer.
@pytest.mark.parametrize("method", sorted({*METHODS} - {"lamp", "ntk_sap", "ria"}))
def test_the_shipped_vision_transformer_is_scored_as_one_of_pytorchs_attention(method: str) -> None:
    torch.manual_seed(0)
    ours = VisionTransformer(1, 3, size=8, patch=4, width=8, depth=2, heads=2).double()
    theirs = copy.deepcopy(ours)
    for block in theirs.blocks:
        inner, block.attention = block.attention, OneInput(8, 2, batch_first=True, dtype=torch.float64)
        values = dict(zip(block.attention.state_dict(), inner.state_dict().values(), strict=True))
        block.attention.load_state_dict(values)
    x = torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    own, options = batches(x, torch.arange(6) % 3, 3, 3), OPTIONS.get(method, {})
    found, expected = (pbt_bench.score(each, own, method=method, **options) for each in (theirs, ours))
    assert len(found) == 1 + 2 * 4 + 1
    assert_equal(dict(zip(expected, found.values(), strict=True)), expected)


def test_phew_refuses_attention_in_one_line() -> None:
    model = Attended()
    with pytest.raises(RequestError, match="path_walks needs .* but the network calls 'multi_head_attention_forward'"):
        pbt_bench.score(model, data(), method="phew")


class Rows(nn.Module):
    """A classifier of images whose rows are tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).transpose(1, 2).flatten(2)
        return self.head(self.attention(x, x, x)[0].mean(1))


@pytest.mark.parametrize("execution", ["dense", "compact"])
def test_pruned_weights_stay_zero_in_training(execution: str) -> None:
    weights = {}
    for mode in (execution, "dense"):
        torch.manual_seed(0)
        model = Rows()
        masks = {name: torch.rand(p.shape) > 0.8 for name, p in prunable(model).items()}
        stepper = Stepper(model, masks, few(), Recipe(execution=mode, batch_size=4), seed=0, purpose="test")
        before = model.attention.in_proj_weight.detach().clone()
        for number in (1, 2):
            stepper.epoch(number)
        for name, mask in masks.items():
            assert not model.get_parameter(name)[~mask].any(), name
        assert not torch.equal(model.attention.in_proj_weight, before)
        weights[mode] = [p.detach() for p in model.parameters()]
    torch.testing.assert_close(weights[execution], weights["dense"], rtol=1e-4, atol=1e-6)


def test_parametrised_projections_are_named_and_not_scored(capsys: pytest.CaptureFixture[str]) -> None:
    note_once.cache_clear()
    model, _ = pair("packed")
    prune.identity(model.first, "in_proj_weight")
    found = pbt_bench.score(model, data(), method="magnitude")
    assert "first.in_proj_weight" not in found
    line, _ = capsys.readouterr().err.splitlines()
    assert "not counted in the sparsity: first.in_proj_weight_orig (of layers that compute" in line


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_layers_and_embeddings_stay_out_and_are_named(kind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 6)
            self.inner = kind(6, 4, batch_first=True)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(self.embed(x))[0].mean(1))

    note_once.cache_clear()
    torch.manual_seed(0)
    model, x = Recurrent(), torch.arange(30).view(6, 5) % 9
    found = pbt_bench.score(model, [(x, torch.arange(6) % 3)], method="fts")
    assert list(found) == ["head.weight"]
    (line,) = capsys.readouterr().err.splitlines()
    names = "embed.weight, inner.weight_ih_l0, inner.weight_hh_l0"
    assert f"not prunable, and not counted in the sparsity: {names} (only weights of convolutions" in line

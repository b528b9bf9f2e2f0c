"""Masks of patterns: N:M against a loop over its groups, channels against ordinary gradients and smaller networks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import partial
from itertools import pairwise, product
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from networks import Odd, Plain, mlp
from torch import Tensor, nn

from pbt_bench.connectivity.live_weights import trace
from pbt_bench.errors import RequestError
from pbt_bench.models import build
from pbt_bench.models.prunable import prunable
from pbt_bench.pattern_names import Pattern, parse
from pbt_bench.pruning import patterns
from pbt_bench.pruning.diagnosis import all_kept
from pbt_bench.pruning.masks import pruned_count
from pbt_bench.pruning.patterns import n_of_m, n_of_m_kept, transposed_groups


class Grouped(nn.Module):
    """Grouped, depth-wise, transposed and 1x1 convolutions, a residual, a layer used twice and tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.twice = nn.Conv2d(6, 6, 1)
        self.tied = nn.Conv2d(6, 6, 1)
        self.tied.weight = self.twice.weight
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = x + F.relu(self.grouped(x))
        x = F.relu(self.up(F.relu(self.depthwise(x))))
        x = F.relu(self.tied(F.relu(self.twice(F.relu(self.twice(x))))))
        return self.head(x.mean((2, 3)))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "mlp": (partial(mlp, 6, 9, 7, 4), (6,), "4.weight"),
    "mlp without biases": (partial(mlp, 6, 9, 7, 4, bias=False), (6,), "4.weight"),
    "convnet": (Plain, (3, 6, 6), "fc.weight"),
    "convnet with normalisation": (partial(Plain, normalise=True), (3, 6, 6), "fc.weight"),
    "groups": (Grouped, (3, 5, 5), "head.weight"),
    "vgg8": (partial(build, "vgg8", 1, 10, seed=0), (1, 8, 8), "classifier.weight"),
    "resnet8": (partial(build, "resnet8", 1, 10, seed=0), (1, 8, 8), "classifier.weight"),
}


def channels(model: nn.Module, scores: Mapping[str, Tensor], example: Tensor, sparsity: float) -> dict[str, Tensor]:
    total = sum(score.numel() for score in scores.values())
    return patterns.channels(model, scores, example, pruned_count(sparsity, total))


def network(name: str) -> tuple[nn.Module, Tensor, str]:
    """(network, example, name of the classifier's weight)."""
    make, shape, classifier = NETWORKS[name]
    torch.manual_seed(0)
    model = make().double()
    return model, torch.randn(2, *shape, dtype=torch.float64), classifier


def random_scores(model: nn.Module, seed: int, ties: bool = False) -> dict[str, Tensor]:
    """Scores whose sums per channel do not grow with the size of a layer; with `ties`, many sums are equal."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, p in prunable(model).items():
        values = torch.rand(len(p), *[1] * (p.dim() - 1), generator=generator, dtype=torch.float64)
        values = (4 * values).floor() if ties else values + torch.rand(p.shape, generator=generator) - 0.5
        found[name] = values.expand(p.shape) * 2**14 / 2 ** (p.numel() // len(p)).bit_length()
    return found


def kept(masks: dict[str, Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def size(masks: dict[str, Tensor]) -> int:
    return sum(mask.numel() for mask in masks.values())


# Names


def test_patterns_are_read() -> None:
    assert parse("none") is None
    assert parse("channel") == Pattern("channel")
    assert parse("2:4") == Pattern("2:4", (2, 4))
    assert parse("1:16") == Pattern("1:16", (1, 16))


@pytest.mark.parametrize(
    "wrong", ["4:2", "4:4", "0:4", "2:0", "2:x", "2:", ":", "02:4", " 2:4", "2:4:8", "-1:4", "٢:4", 24]
)
def test_a_wrong_group_is_one_line_with_the_value_and_what_is_valid(wrong: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(wrong, "grid.toml")
    text = str(caught.value)
    assert text.startswith(f"grid.toml: pattern = {wrong!r} must be 'none', 'channel', or 'N:M'")
    assert "\n" not in text


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(RequestError, match=r"^grid.toml: unknown pattern 'chanel'; did you mean 'channel'\?"):
        parse("chanel", "grid.toml")
    with pytest.raises(RequestError, match=r"^unknown pattern '' \(valid: N:M, channel, none\)"):
        parse("")


def test_n_of_m_has_one_sparsity() -> None:
    Pattern("2:4", (2, 4)).check(0.5)
    Pattern("1:10", (1, 10)).check(0.9)
    Pattern("channel").check(0.123)
    with pytest.raises(RequestError, match=r"^a: sparsity = 0.9 with pattern = '1:4': the .* must be 1 - 1/4 = 0.75$"):
        Pattern("1:4", (1, 4)).check(0.9, "a")


def test_names_are_read_without_torch() -> None:
    subprocess.run(
        [sys.executable, "-c", "import sys, pbt_bench.pattern_names; assert 'torch' not in sys.modules"], check=True
    )


# N:M


def lines(model: nn.Module) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
    """(weight name, indices of the weights of one output channel and kernel position, in the order of the inputs)."""
    for path, module in model.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
            continue
        shape = module.weight.shape
        for position in product(*map(range, shape[2:])):
            if isinstance(module, nn.ConvTranspose2d):
                inputs = shape[0] // module.groups
                for group, output in product(range(module.groups), range(shape[1])):
                    rows = range(group * inputs, (group + 1) * inputs)
                    yield f"{path}.weight", [(row, output, *position) for row in rows]
            else:
                for output in range(shape[0]):
                    yield f"{path}.weight", [(output, column, *position) for column in range(shape[1])]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (3, 5), (1, 16), (7, 8)])
@pytest.mark.parametrize("make", [Grouped, Odd, partial(mlp, 10, 7, 3)], ids=["groups", "odd", "mlp"])
def test_every_group_of_inputs_keeps_its_highest_scores(
    make: Callable[[], nn.Module], n: int, m: int, seed: int
) -> None:
    model = make()
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.randint(5, p.shape, generator=generator).float() for name, p in prunable(model).items()}
    masks = n_of_m(scores, n, m, transposed_groups(model))
    seen = 0
    for name, indices in lines(model):
        if name not in scores:
            continue
        for start in range(0, len(indices), m):
            group = indices[start : start + m]
            pruned = len(group) - -(-len(group) * n // m)
            ascending = sorted(group, key=lambda index: float(scores[name][index]))  # stable: of equals, first first
            assert [index for index in group if not masks[name][index]] == sorted(ascending[:pruned])
            seen += len(group)
    assert seen == size(masks)
    shapes = {name: tuple(score.shape) for name, score in scores.items()}
    assert kept(masks) == n_of_m_kept(shapes, n, m, transposed_groups(model))
    assert all(bool(mask.any()) for mask in masks.values())


def test_counts_of_n_of_m() -> None:
    shapes = {"conv": (16, 8, 3, 3), "first": (16, 3, 3, 3), "depthwise": (16, 1, 3, 3), "linear": (10, 6)}
    assert n_of_m_kept({"conv": shapes["conv"]}, 2, 4) == 16 * 4 * 9
    assert n_of_m_kept(shapes, 2, 4) == 16 * 4 * 9 + 16 * 2 * 9 + 16 * 9 + 10 * 3
    assert n_of_m_kept({"up": (8, 3, 2, 2)}, 2, 4, {"up": 2}) == 2 * 3 * 4 * 2
    assert n_of_m_kept({"up": (8, 3, 2, 2)}, 2, 4) == 8 * 2 * 4


def test_n_of_m_does_not_depend_on_the_memory_format() -> None:
    score = torch.rand(8, 12, 3, 3)
    moved = n_of_m({"w": score.to(memory_format=torch.channels_last)}, 2, 4)["w"]
    assert torch.equal(moved, n_of_m({"w": score}, 2, 4)["w"])
    assert moved.is_contiguous()


# Channels


def outputs_of(model: nn.Module) -> dict[str, list[Tensor]]:
    """Per weight, the mask of every output channel's weights, in order."""
    transposed = {f"{n}.weight": m for n, m in model.named_modules() if isinstance(m, nn.ConvTranspose2d)}
    found: dict[str, list[Tensor]] = {}
    for name, p in prunable(model).items():
        found[name] = []
        module = transposed.get(name)
        for output in range(module.out_channels if module else len(p)):
            chosen = torch.zeros(p.shape, dtype=torch.bool)
            if module:
                group, column = divmod(output, p.shape[1])
                chosen.unflatten(0, (module.groups, -1))[group, :, column] = True
            else:
                chosen[output] = True
            found[name].append(chosen)
    return found


def reached(model: nn.Module, masks: dict[str, Tensor], example: Tensor) -> dict[str, Tensor]:
    """Weights with a gradient in a network without biases and negative weights: those on a path."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, p in model.named_parameters():
        state[name] = torch.zeros_like(p) if name.endswith("bias") else torch.ones_like(p)
        if name in masks:
            state[name] = (torch.rand(p.shape, generator=generator, dtype=p.dtype) + 0.5) * masks[name]
        state[name].requires_grad_()
    with mock.patch.object(F, "max_pool2d", F.avg_pool2d):  # a maximum passes a gradient to one candidate only
        output = torch.func.functional_call(model.eval(), state, (torch.ones_like(example),))
    gradients = torch.autograd.grad(
        output.sum(), [state[name] for name in masks], allow_unused=True, materialize_grads=True
    )
    return {name: (gradient > 0) & mask for (name, mask), gradient in zip(masks.items(), gradients, strict=True)}


def reference(model: nn.Module, scores: dict[str, Tensor], example: Tensor, classifier: str) -> list[dict[str, Tensor]]:
    """Masks without the first 0, 1, 2, ... channels in the order of their sums."""
    masks = all_kept(model)
    live = reached(model, masks, example)
    rows = [(float(scores[n][row].sum()), n, row) for n, some in outputs_of(model).items() for row in some]
    found = [{name: mask.clone() for name, mask in masks.items()}]
    for _, name, row in sorted((item for item in rows if item[1] != classifier), key=lambda item: item[0]):  # stable
        masks[name] &= ~row
        still = reached(model, masks, example)
        found.append({n: mask & (still[n] | ~live[n]) for n, mask in masks.items()})
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_channel_masks_equal_those_of_removing_channels_one_by_one(name: str) -> None:
    model, example, classifier = network(name)
    for seed in range(2 if name in ("vgg8", "resnet8") else 6):
        scores = random_scores(model, seed, ties=seed % 2 == 1)
        removed = reference(model, scores, example, classifier)
        counts = [size(masks) - kept(masks) for masks in removed]
        assert counts == sorted(counts), "removing one more channel never prunes fewer weights"
        for sparsity in ("0", "0.1", "0.5", "0.9", "0.99", "0.999"):
            masks = channels(model, scores, example, float(sparsity))
            enough = [count >= int(Fraction(sparsity) * size(masks)) for count in counts]
            expected = removed[enough.index(True)]
            assert all(torch.equal(masks[n], expected[n]) for n in scores), (seed, kept(masks), kept(expected))
            assert list(masks) == list(scores)


@pytest.mark.parametrize("name", NETWORKS)
def test_masks_are_whole_channels_and_what_follows(name: str) -> None:
    model, example, classifier = network(name)
    for seed, sparsity in product(range(4), (0.2, 0.5, 0.7)):
        masks = channels(model, random_scores(model, seed), example, sparsity)
        empty = all_kept(model)
        for weight, outputs in outputs_of(model).items():
            for row in outputs:
                if not masks[weight][row].any():
                    empty[weight] &= ~row
        live = trace(model, empty, example).live
        for weight in masks:
            assert torch.equal(masks[weight], live[weight]), "every kept weight is live once empty channels are gone"
        assert masks[classifier].any(1).all() or not kept(masks), "no output of the network is removed alone"


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.7, 0.8])
def test_a_channel_mask_of_an_mlp_is_a_smaller_mlp(sparsity: float) -> None:
    model = mlp(6, 24, 16, 4, bias=False)
    x = torch.randn(5, 6, dtype=torch.float64)
    for seed in range(5):
        masks = channels(model, random_scores(model, seed), x, sparsity)
        widths = [6, *(int(masks[f"{layer}.weight"].any(1).sum()) for layer in (0, 2)), 4]
        assert min(widths) > 0
        assert kept(masks) == sum(a * b for a, b in pairwise(widths))
        small = mlp(*widths, bias=False)
        small.load_state_dict(
            {name: p[masks[name]].view_as(small.get_parameter(name)) for name, p in prunable(model).items()}
        )
        masked = {name: p * masks[name] for name, p in prunable(model).items()}
        assert torch.allclose(torch.func.functional_call(model, masked, (x,)), small(x), atol=1e-12)


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.7, 0.8])
def test_a_channel_mask_of_a_convnet_is_a_smaller_convnet(sparsity: float) -> None:
    model, x, _ = network("convnet")
    for seed in range(5):
        masks = channels(model, random_scores(model, seed), x, sparsity)
        weights = {name: p * masks[name] for name, p in prunable(model).items()}
        small, channel = x, torch.ones(3, dtype=torch.bool)
        for name, stride in (("c1", 1), ("c2", 2), ("c3", 1)):
            weight = weights[f"{name}.weight"]
            outputs = masks[f"{name}.weight"].flatten(1).any(1)
            assert masks[f"{name}.weight"][outputs][:, channel].all()
            small = F.relu(F.conv2d(small, weight[outputs][:, channel], stride=stride, padding=1))
            channel = outputs
        assert channel.any()
        small = F.linear(small.mean((2, 3)), weights["fc.weight"][:, channel], model.fc.bias)  # type: ignore[arg-type,union-attr]
        assert torch.allclose(torch.func.functional_call(model, weights, (x,)), small, atol=1e-12)


def test_the_sum_decides_and_of_equal_sums_the_first_is_removed() -> None:
    model = mlp(2, 3, 3, 1)
    scores = {"0.weight": torch.ones(3, 2), "2.weight": torch.full((3, 3), 2 / 3), "4.weight": torch.zeros(1, 3)}
    scores["0.weight"][0] = torch.tensor([5.0, -3.5])
    masks = channels(model, scores, torch.zeros(1, 2), 0.2)  # 3 of 18
    assert masks["0.weight"].any(1).tolist() == [False, True, True]  # sums 1.5, 2, 2
    assert masks["2.weight"].all(0).tolist() == [False, True, True]
    masks = channels(model, scores, torch.zeros(1, 2), 0.3)  # 5 of 18 are gone with the first channel
    assert kept(masks) == 13
    masks = channels(model, scores, torch.zeros(1, 2), 0.4)  # 7 of 18
    assert masks["0.weight"].any(1).tolist() == [False, False, True]
    assert masks["2.weight"].any(1).all()


def test_a_residual_channel_stays_while_another_layer_feeds_it() -> None:
    model, example, _ = network("resnet8")
    scores = random_scores(model, 0)
    scores["conv1.weight"] = scores["conv1.weight"].clone()
    scores["conv1.weight"][3] = -1e9
    masks = channels(model, scores, example, 5e-5)
    pruned = {name: int((~mask).sum()) for name, mask in masks.items() if not mask.all()}
    assert pruned == {"conv1.weight": 9, "stages.0.0.conv1.weight": 16 * 9}, "the sum after the block keeps the channel"


class Constant(nn.Module):
    """A learned token feeds a layer beside the input, and one layer is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 3))
        self.side, self.main = nn.Linear(3, 5), nn.Linear(4, 5)
        self.unused, self.head = nn.Linear(2, 2), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.main(x)) + self.side(self.token))


def test_weights_without_a_path_are_pruned_only_with_their_own_channel() -> None:
    model, x = Constant(), torch.zeros(1, 4)
    scores = {name: torch.ones(p.shape) for name, p in prunable(model).items()}
    assert kept(channels(model, scores, x, 0)) == size(scores)
    masks = channels(model, scores, x, 0.08)  # 4 of 49: the unused layer has the lowest sums
    assert {name for name, mask in masks.items() if not mask.all()} == {"unused.weight"}
    scores["main.weight"] *= 0.1
    masks = channels(model, scores, x, 0.1)
    assert [int(masks[name].sum()) for name in ("main.weight", "side.weight", "head.weight")] == [16, 15, 8]


def test_a_classifier_that_is_not_prunable_keeps_the_layer_before_it_removable() -> None:
    model, example, classifier = network("convnet")
    scores = random_scores(model, 0)
    del scores[classifier]
    masks = channels(model, scores, example, 0.5)
    assert list(masks) == list(scores)
    assert not masks["c3.weight"].flatten(1).any(1).all()


def test_weights_pruned_before_stay_pruned_and_are_in_no_sum() -> None:
    model, example, _ = network("convnet")
    scores = random_scores(model, 0)
    first = channels(model, scores, example, 0.3)
    again = {name: score.where(first[name], -torch.inf) for name, score in random_scores(model, 1).items()}
    assert all(torch.equal(mask, first[name]) for name, mask in channels(model, again, example, 0.3).items())
    second = channels(model, again, example, 0.6)
    assert 0.6 * size(second) <= size(second) - kept(second) < size(second)
    assert not any(bool((second[name] & ~first[name]).any()) for name in second)


def test_the_network_comes_back_unchanged_and_data_types_may_differ() -> None:
    model, example, _ = network("resnet8")
    model.train().requires_grad_(False)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    channels(model, random_scores(model, 0), example.float(), 0.5)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert model.training
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


def test_a_sparsity_that_no_removal_reaches_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    scores = {"0.weight": torch.ones(3, 4)}
    assert kept(channels(model, scores, torch.zeros(1, 4), 0)) == 12
    with pytest.raises(RequestError, match=r"^sparsity = 0.5 with pattern = 'channel': .* \(at most 0\)$"):
        channels(model, scores, torch.zeros(1, 4), 0.5)


class TwoHeads(nn.Module):
    """Add a linear layer of the input to a hidden layer's classifier, and scale the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head, self.direct = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.head(F.relu(self.hidden(x))) + self.direct(x)) * 3


def test_every_layer_at_the_output_is_protected() -> None:
    model, x = TwoHeads(), torch.zeros(1, 4)
    scores = {name: torch.rand(p.shape) + (name == "hidden.weight") for name, p in prunable(model).items()}
    masks = channels(model, scores, x, 0.5)  # 27 of 54: four channels of 4 + 3 weights
    assert [int(masks[name].sum()) for name in masks] == [2 * 4, 2 * 3, 12]
    with pytest.raises(RequestError, match=r"removing all 6 channels .* prunes 42 of 54 weights \(at most 0.7777\)"):
        channels(model, scores, x, 0.8)


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("name", [*NETWORKS, "odd"])
def test_pruning_more_weights_never_makes_a_weight_live(name: str, sparsity: float) -> None:
    model, example = (Odd(), torch.zeros(1, 4, 6, 6)) if name == "odd" else network(name)[:2]
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        masks = {n: torch.rand(p.shape, generator=generator) >= sparsity for n, p in prunable(model).items()}
        fewer = {n: mask & (torch.rand(mask.shape, generator=generator) >= 0.1) for n, mask in masks.items()}
        live, less = (trace(model, some, example).live for some in (masks, fewer))
        assert not any(bool((less[n] & ~live[n]).any()) for n in masks)

"""Tests that execution on live channels equals the masked network."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pbt_bench.models import build
from pbt_bench.models.prunable import Masks, prunable
from pbt_bench.pruning.api import apply
from pbt_bench.pruning.masks import Ranking
from pbt_bench.sparse import kernels, tuning
from pbt_bench.sparse.compact_network import Compact
from pbt_bench.sparse.kept_weights import KeptWeights, _flat
from pbt_bench.sparse.live_channels import Live

pytestmark = pytest.mark.usefixtures("nan_memory")


class Odd(nn.Module):
    """Biased and strided convolutions, no normalisation, a sum of parts with different live channels, poolings."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 20, 3, padding=1), nn.Conv2d(3, 20, 1)
        self.c, self.d = nn.Conv2d(20, 24, 3, stride=2, padding=1, bias=False), nn.Conv2d(24, 16, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(16, affine=False), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = F.relu(self.a(x)) + self.b(x)
        x = F.max_pool2d(self.c(x), 3, padding=1, stride=1)
        x = torch.tanh(self.norm(self.d(x))) * 1.5
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def clustered(model: nn.Module, sparsity: float) -> Masks:
    """Return masks with many dead channels, as from scores that are large for some channels."""
    generator = torch.Generator().manual_seed(1)
    scores = {}
    for name, p in prunable(model).items():
        rows = torch.rand(p.shape[:1], generator=generator) ** 8
        columns = torch.rand(p.shape[1:2], generator=generator) ** 8
        spread = rows[:, None] * columns
        scores[name] = torch.rand(p.shape, generator=generator) * spread.view(*spread.shape, *[1] * (p.dim() - 2))
    return Ranking(scores, "layer").masks(sparsity)


def give_gradient(parameter: nn.Parameter, kept: KeptWeights) -> None:
    """Add the gradient of the vector of kept weights to the gradient of their tensor."""
    if kept.vector.grad is not None:
        whole = torch.zeros_like(parameter)
        _flat(whole).index_copy_(0, kept._index, kept.vector.grad)
        parameter.grad = whole if parameter.grad is None else parameter.grad + whole
        kept.vector.grad = None


def make(name: str) -> nn.Module:
    """Return a small network in float64 with nonzero shifts, so that dead channels have nonzero values."""
    torch.manual_seed(0)
    model = Odd() if name == "odd" else build(name, 3, 10, seed=0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.double()


@pytest.mark.parametrize("name", ["resnet8", "vgg8", "resnet20", "odd"])
@pytest.mark.parametrize("sparsity", [0.9, 0.97])
@pytest.mark.parametrize("by", ["weights", "channels", "both"])
@pytest.mark.parametrize("batch", [6, 1])
def test_outputs_gradients_and_updates_are_those_of_the_masked_network(
    name: str, sparsity: float, by: str, batch: int
) -> None:
    """Compare in float64 to 1e-9 over three steps, running statistics included, and in evaluation mode."""
    if by != "channels" and kernels.loaded() is None:
        pytest.skip("no C compiler was there at installation")
    model = make(name)
    masks = clustered(model, sparsity)
    apply(model, masks)
    other = copy.deepcopy(model)
    parameters = dict(other.named_parameters())
    mode = Compact(other, masks, always=True)
    assert mode.plans
    plans = list(mode.plans.values())
    for plan in {"weights": [], "both": plans[::2], "channels": plans}[by]:
        plan.kept = None
    optimizers = [torch.optim.SGD(m.parameters(), 0.05, momentum=0.9, weight_decay=1e-3) for m in (model, other)]
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(batch, 3, 16, 16, generator=generator, dtype=torch.float64).contiguous(
        memory_format=torch.channels_last if sparsity == 0.9 else torch.contiguous_format
    )
    y = torch.arange(batch)
    for _ in range(3):
        outputs = []
        for m, optimizer in zip((model, other), optimizers, strict=True):
            optimizer.zero_grad()
            if m is other:
                with mode:
                    outputs.append(m(x))
            else:
                outputs.append(m(x))
            F.cross_entropy(outputs[-1], y).backward()
        for path, of_path in mode.kept.items():
            give_gradient(parameters[path], of_path)
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-9, atol=1e-9)
        for (path, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
            assert p.grad is not None
            assert q.grad is not None
            mask = masks.get(path, torch.ones_like(p, dtype=torch.bool))
            torch.testing.assert_close(q.grad * mask, p.grad * mask, rtol=1e-8, atol=1e-9, msg=path)
        for m, optimizer in zip((model, other), optimizers, strict=True):
            optimizer.step()
            apply(m, masks)
        for of_path in mode.kept.values():
            of_path.read()
    for (path, p), q in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-8, atol=1e-9, msg=path)
    with mode:
        ours = other.eval()(x)
    torch.testing.assert_close(ours, model.eval()(x), rtol=1e-8, atol=1e-9)


def test_dead_channels_are_not_computed() -> None:
    """Check that a convolution returns its live rows only, and unknown operations get the whole tensor."""
    conv = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    mask = torch.zeros_like(conv.weight, dtype=torch.bool)
    mask[5:9, 3:7] = True
    conv.weight.data *= mask
    x = torch.randn(2, 64, 8, 8)
    with Compact(conv, {"weight": mask}, always=True):
        y = conv(x)
        assert isinstance(y, Live)
        assert y.values.shape == (2, tuning.CHANNEL_STEP, 8, 8)
        torch.testing.assert_close(y.sigmoid(), conv(x).whole().sigmoid())
    torch.testing.assert_close(y.whole(), conv(x))


@pytest.mark.filterwarnings("ignore:Using padding")  # a note of torch about memory
@pytest.mark.parametrize("kept", [0, 5])
def test_odd_padding_and_examples_without_a_batch(kept: int) -> None:
    """Check that unsupported convolutions are executed densely, and an empty convolution returns its bias."""
    conv = nn.Conv2d(8, 16, 4, padding="same").double()
    mask = torch.zeros_like(conv.weight, dtype=torch.bool)
    mask.view(-1)[:kept] = True
    conv.weight.data *= mask
    x = torch.randn(5, 8, 6, 6, dtype=torch.float64)
    plain = nn.Conv2d(8, 16, 4, padding=1).double()
    plain.load_state_dict(conv.state_dict())
    for module, inputs in ((conv, x), (conv, x[0]), (plain, x), (plain, x[0])):
        with Compact(module, {"weight": mask}, always=True):
            ours = module(inputs)
        torch.testing.assert_close(ours.whole() if isinstance(ours, Live) else ours, module(inputs))


def test_what_happens_in_place_is_seen_under_every_name() -> None:
    """Check that an in-place ReLU or sum also changes the activation that a shortcut holds."""
    conv = nn.Conv2d(32, 32, 1)
    mask = torch.zeros_like(conv.weight, dtype=torch.bool)
    mask[2:9] = True
    conv.weight.data *= mask
    x = torch.randn(2, 32, 4, 4)

    def forward() -> Tensor:
        shortcut = y = conv(x)
        z = F.relu(y, inplace=True)
        z += x
        return torch.sigmoid(shortcut) + z

    with Compact(conv, {"weight": mask}, always=True):
        ours = forward()
    torch.testing.assert_close(torch.add(ours, 0), forward())


def test_auto_leaves_small_layers_as_they_are() -> None:
    """Check that a layer that would save less than LEAST_SAVING multiply-adds returns an ordinary tensor."""
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1))
    mask = torch.zeros(64, 64, 3, 3, dtype=torch.bool)
    mask[:8] = True
    assert not Compact(model, {"0.weight": mask}, torch.randn(1, 64, 8, 8), 32).plans
    with Compact(model, {"0.weight": mask}, torch.randn(1, 64, 8, 8), 64):
        assert isinstance(model(torch.randn(2, 64, 8, 8)), Tensor)
        assert isinstance(model(torch.randn(64, 64, 8, 8)), Live)
    assert isinstance(model(torch.randn(64, 64, 8, 8)), Tensor)

"""Tests of `to_torch_prune`: the network computes the same, trains the same, and torch's own functions apply."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import ConvNet
from torch import Tensor, nn
from torch.nn.utils import prune

import pbt_bench
from pbt_bench.errors import RequestError


class Attentive(nn.Module):
    """An encoder layer with a packed attention, and a linear layer tied to the first one of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.tied = nn.Linear(8, 16)
        self.tied.weight = self.encoder.linear1.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.tied(self.encoder(inputs)).mean(1)


class Separate(nn.Module):
    """An attention whose query, key and value weights are separate tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=5, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.attention(inputs, inputs[..., :6], inputs[..., :5])[0].mean(1)


NETWORKS = {"convolutions": ConvNet, "packed attention": Attentive, "separate attention": Separate}


@pytest.mark.parametrize("kind", NETWORKS)
def test_it_trains_as_enforced_masks_do_and_torch_removes_it(kind: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[kind]()
    other = copy.deepcopy(model)
    masks = {name: torch.rand_like(p) < 0.4 for name, p in model.named_parameters() if p.ndim > 1}
    names = list(model.state_dict())
    pbt_bench.to_torch_prune(model, masks)
    assert sum(key.endswith("_mask") for key in model.state_dict()) == len(masks) + (kind == "packed attention")
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.05, momentum=0.9) for each in (model, other)]
    pbt_bench.enforce(other, masks, optimizers[1])
    inputs = torch.randn(4, 3, 8, 8) if kind == "convolutions" else torch.randn(4, 5, 8)
    for _ in range(3):
        for each, optimizer in zip((model, other), optimizers, strict=True):
            optimizer.zero_grad()
            each(inputs).square().sum().backward()
            optimizer.step()
    for mode in (True, False):  # in evaluation mode, an encoder layer may read its weights without calling its parts
        with torch.no_grad():
            torch.testing.assert_close(model.train(mode)(inputs), other.train(mode)(inputs))

    for module in model.modules():
        for name in [key.removesuffix("_orig") for key in module._parameters if key.endswith("_orig")]:
            prune.remove(module, name)
    assert sorted(model.state_dict()) == sorted(names)
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter)
    model(inputs).sum().backward()


def test_masks_that_do_not_fit_change_nothing() -> None:
    model = ConvNet()
    with pytest.raises(
        RequestError, match=r"mask of conv2.weight: torch.bool \[2\], expected torch.bool \[16, 8, 3, 3\]"
    ):
        pbt_bench.to_torch_prune(model, {"conv1.weight": torch.ones(8, 3, 3, 3) > 0, "conv2.weight": torch.ones(2) > 0})
    assert "conv1.weight" in dict(model.named_parameters())

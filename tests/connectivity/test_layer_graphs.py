"""Tests of the graphs of layers and of their Ramanujan gap."""

from __future__ import annotations

import json
from math import sqrt

import numpy as np
import pytest
import torch
from networks import GOLDEN, published, random_masks
from torch import Tensor, nn

from pbt_bench.connectivity.layer_graphs import layer_graph, output_units, ramanujan_gap
from pbt_bench.models.prunable import owners, prunable

PUBLISHED = json.loads(GOLDEN.with_name("mask_metrics.json").read_text())["ramanujan"]


def gap_of_adjacency(graph: Tensor) -> float:
    """Compute the gap from the eigenvalues of the whole adjacency matrix, which are ± the singular values."""
    blocks = torch.block_diag(*graph).double().numpy()
    blocks = blocks[blocks.any(1)][:, blocks.any(0)]
    inputs, outputs = blocks.shape
    adjacency = np.zeros((inputs + outputs,) * 2)
    adjacency[:inputs, inputs:], adjacency[inputs:, :inputs] = blocks, blocks.T
    second = np.sort(np.abs(np.linalg.eigvalsh(adjacency)))[-3]
    return sqrt(blocks.sum() / inputs - 1) + sqrt(blocks.sum() / outputs - 1) - second


@pytest.mark.parametrize("case", PUBLISHED)
def test_gaps_are_those_of_the_published_code(case: str) -> None:
    name, density = case.split(".", 1)
    net, _, _ = published(name)
    masks, modules = random_masks(net, float(density)), owners(net)
    found = {layer: ramanujan_gap(layer_graph(mask, modules[layer])) for layer, mask in masks.items()}
    assert found == {
        layer: gap if gap is None else pytest.approx(gap, abs=1e-4) for layer, gap in PUBLISHED[case].items()
    }


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(20, 30),
        nn.Conv2d(6, 12, 3, groups=2),
        nn.Conv1d(6, 18, 3, groups=3),
        nn.ConvTranspose2d(8, 10, 3, groups=2),
        nn.MultiheadAttention(12, 2),
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_gap_is_that_of_the_adjacency_matrix(module: nn.Module) -> None:
    ((name, mask),) = list(random_masks(module, 0.7).items())[:1]
    mask[1] = False
    graph = layer_graph(mask, owners(module)[name])
    assert graph.sum() == mask.sum()
    assert ramanujan_gap(graph) == pytest.approx(gap_of_adjacency(graph))


def test_outputs_of_a_layer_are_channels_and_units() -> None:
    sizes = {
        nn.Linear(4, 7): (1, 4, 7),
        nn.Conv2d(4, 6, 3, groups=2): (2, 18, 3),
        nn.ConvTranspose2d(4, 6, 3, groups=2): (2, 18, 3),
        nn.Conv2d(4, 4, 3, groups=4): (4, 9, 1),
    }
    for module, size in sizes.items():
        (weight,) = prunable(module).values()
        mask = torch.ones_like(weight, dtype=torch.bool)
        graph = layer_graph(mask, module)
        assert graph.shape == size
        assert output_units(graph) == (size[0] * size[2],) * 2
        assert output_units(~graph) == (0, size[0] * size[2])


def test_the_gap_of_a_complete_graph_is_its_bound_and_of_two_it_is_below() -> None:
    assert ramanujan_gap(torch.ones(1, 5, 10, dtype=torch.bool)) == pytest.approx(sqrt(9) + sqrt(4), abs=1e-6)
    assert ramanujan_gap(torch.ones(2, 5, 10, dtype=torch.bool)) == pytest.approx(sqrt(9) + sqrt(4) - sqrt(50))


def test_below_a_mean_degree_of_three_there_is_no_gap() -> None:
    assert ramanujan_gap(torch.zeros(1, 5, 10, dtype=torch.bool)) is None
    assert ramanujan_gap(torch.eye(10, dtype=torch.bool)[None]) is None
    assert ramanujan_gap(torch.ones(4, 9, 1, dtype=torch.bool)) is None, "depthwise: an input has one output"

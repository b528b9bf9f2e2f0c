"""Iterative magnitude pruning: against its levels written plainly, one order for every sparsity."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor

from pbt_bench.data import load
from pbt_bench.models.prunable import prunable
from pbt_bench.pruning.masks import pruned_count
from pbt_bench.running.execute import Executor
from pbt_bench.running.group import Group
from pbt_bench.spec import Recipe, RunSpec, Value
from pbt_bench.training.loop import train, warm_up

RECIPE = Recipe(epochs=2, batch_size=256, learning_rate=0.05)
OPTIONS: dict[str, Value] = {"levels": 3, "fraction": 0.4}
SPEC = RunSpec(
    dataset="digits", model="vgg8", method="imp", sparsity=0.7, seed=1, recipe=RECIPE, options=OPTIONS, warmup="3 steps"
)


def group() -> Group:
    return Group(SPEC, load("digits", Path("data")), torch.device("cpu"))


def plain(sparsity: float) -> tuple[dict[str, Tensor], list[float | None]]:
    """Train, prune 40% of the remaining weights, rewind to step 3, in float; the last level prunes to the sparsity."""
    shared = group()
    start = shared.build(SPEC.seed)
    warm_up(start, shared.data, RECIPE, SPEC.seed, "3 steps")
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in prunable(start).items()}
    total = sum(mask.numel() for mask in masks.values())
    accuracies = []
    while True:
        model = shared.build(SPEC.seed)
        model.load_state_dict(start.state_dict())
        accuracies.append(train(model, masks, shared.data, RECIPE, SPEC.seed).curve[-1].validation_accuracy)
        pruned = sum(int((~mask).sum()) for mask in masks.values())
        wanted = min(pruned + int(0.4 * (total - pruned)), pruned_count(sparsity, total))
        weights = torch.cat([model.get_parameter(name).detach().abs().flatten() for name in masks])
        kept = torch.cat([mask.flatten() for mask in masks.values()])
        order = weights.masked_fill(~kept, -1).argsort(stable=True)
        kept[order[:wanted]] = False
        parts = kept.split([mask.numel() for mask in masks.values()])
        masks = {name: part.view_as(mask) for (name, mask), part in zip(masks.items(), parts, strict=True)}
        if wanted == pruned_count(sparsity, total):
            return masks, accuracies


@pytest.mark.parametrize("sparsity", [0.3, 0.64, 0.8])
def test_its_masks_are_those_of_the_levels_written_plainly(sparsity: float) -> None:
    shared = group()
    shared.warm_up(SPEC, None, None)
    found = shared.mask(msgspec.structs.replace(SPEC, sparsity=sparsity))
    masks, accuracies = plain(sparsity)
    assert all(torch.equal(found.masks[name], masks[name]) for name in masks)
    notes = found.pruning.notes["pruning_order"]
    assert [notes[f"validation_accuracy_{level}"] for level in range(len(accuracies))] == accuracies
    assert len(notes) == 4


def test_a_run_trains_the_ticket_from_the_weights_that_it_is_rewound_to() -> None:
    record = Executor(Path("data"), torch.device("cpu")).execute(SPEC).record
    assert record.status == "done", record.error
    assert record.pruning is not None
    assert record.pruning.prunable - record.pruning.kept == pruned_count(0.7, record.pruning.prunable)

"""Iterative magnitude pruning: against its levels written plainly and open_lth, rewinding, one order for all masks."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import torch
import torch.nn.functional as F
from networks import published_values
from savers import SaveAll
from torch import Tensor, nn

from pbt_bench.data import load
from pbt_bench.models.prunable import prunable
from pbt_bench.pruning.masks import pruned_count
from pbt_bench.pruning.statistics.pruning_order import pruning_order
from pbt_bench.pruning.task import Task
from pbt_bench.running.execute import Executor
from pbt_bench.running.group import Group
from pbt_bench.running.statistic_training import StatisticTraining
from pbt_bench.spec import Recipe, RunSpec, Scoring, Value
from pbt_bench.training.loop import train, warm_up
from pbt_bench.training.stepper import Stepper

RECIPE = Recipe(epochs=2, batch_size=256, learning_rate=0.05)
OPTIONS: dict[str, Value] = {"levels": 3, "fraction": 0.4}
SPEC = RunSpec(
    dataset="digits", model="vgg8", method="imp", sparsity=0.7, seed=1, recipe=RECIPE, options=OPTIONS, warmup="3 steps"
)
REWOUND = msgspec.structs.replace(SPEC, warmup="none", options={"levels": 1, "rewind": "4 steps"})


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
    assert len(notes) == 3 * 4, "of every level the kept weights, validation and test accuracy"
    kept = [notes[f"kept_{level}"] for level in range(4)]
    assert kept[0] == found.pruning.prunable
    assert all(after == before - int(0.4 * before) for before, after in pairwise(kept))


def test_a_run_trains_the_ticket_from_the_weights_that_it_is_rewound_to() -> None:
    record = Executor(Path("data"), torch.device("cpu")).execute(SPEC).record
    assert record.status == "done", record.error
    assert record.pruning is not None
    assert record.pruning.prunable - record.pruning.kept == pruned_count(0.7, record.pruning.prunable)


def test_levels_and_the_run_begin_with_the_weights_of_the_step_to_which_they_are_rewound() -> None:
    shared = group()
    found = shared.mask(msgspec.structs.replace(REWOUND, sparsity=0.15))  # less than the first level prunes
    early = Stepper(shared.build(SPEC.seed), {}, shared.data, RECIPE, SPEC.seed, "train")
    early.train(4)
    for name, tensor in early.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor * found.masks.get(name, 1))
    level = Stepper(early.model, {}, shared.data, RECIPE, SPEC.seed, "train")
    level.begin_at(4)
    level.train(2 * level.steps_per_epoch)
    state, masks = level.model.state_dict(), found.masks
    kept = torch.cat([state[name][mask].abs() for name, mask in masks.items()])
    pruned = torch.cat([state[name][~mask].abs() for name, mask in masks.items()])
    assert kept.min() >= pruned.max()


def test_a_rewound_run_trains_the_steps_that_are_left() -> None:
    shared = group()
    masked = shared.mask(REWOUND)
    state = masked.model.state_dict()
    plain = shared.build(SPEC.seed)
    plain.load_state_dict(state)
    stepper = Stepper(plain, masked.masks, shared.data, RECIPE, SPEC.seed, "train")
    stepper.begin_at(4)
    loss, _ = stepper.epoch(1)
    left = len(shared.data.train) - 4 * RECIPE.batch_size
    stepper.train(2 * stepper.steps_per_epoch)
    trained = train(masked.model, masked.masks, shared.data, RECIPE, SPEC.seed, begin=masked.begin)
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in masked.model.state_dict().items())
    assert trained.curve[0].train_loss == float(loss) / left
    again = shared.mask(REWOUND)
    late = train(again.model, again.masks, shared.data, RECIPE, SPEC.seed, begin="1 epochs")
    assert [row.epoch for row in trained.curve] == [1, 2]
    assert [row.epoch for row in late.curve] == [2]


def test_a_rewound_run_saved_after_any_step_ends_with_the_same_bits() -> None:
    saver = SaveAll()
    expected = group().mask(REWOUND, saver)
    assert len(saver.states) == 4 + 2 * (2 * 5 - 4), "the steps of dense training and of two levels"
    for state in saver.states[2::7]:
        found = group().mask(REWOUND, None, state)
        assert found.pruning.notes == expected.pruning.notes
        assert found.begin == "4 steps"
        assert all(torch.equal(found.masks[name], mask) for name, mask in expected.masks.items())
        assert all(torch.equal(found.model.state_dict()[name], t) for name, t in expected.model.state_dict().items())
    saver, shared = SaveAll(), group()
    whole = train(expected.model, expected.masks, shared.data, RECIPE, SPEC.seed, saver=saver, begin=expected.begin)
    state = expected.model.state_dict()
    so_far = msgspec.json.encode(expected.pruning).decode()
    for training in saver.states[::4]:
        saved = {"pruning": so_far, "masks": expected.masks, "begin": expected.begin, "training": training}
        masked = shared.restore(REWOUND, saved)
        model = masked.model
        again = train(model, masked.masks, shared.data, RECIPE, SPEC.seed, state=training, begin=masked.begin)
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
        assert [row.train_loss for row in again.curve] == [row.train_loss for row in whole.curve]


class SmallNet(nn.Module):
    """Two convolutions and a linear layer with 1220 weights, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 14, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(14)
        self.linear = nn.Linear(14, 10)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x.double()))))))
        return self.linear(x.mean((2, 3)))


@pytest.mark.parametrize("rewind", ["0", "12 steps"])
def test_masks_and_accuracies_of_three_levels_are_those_of_open_lth(rewind: str) -> None:
    """It prunes ceil(0.2 n) + 1 of n weights: 245, 196 and 157, which are also floor(0.2016 n)."""
    golden = published_values("imp")
    recipe = Recipe(
        epochs=3, batch_size=128, learning_rate=0.1, weight_decay=5e-4, schedule="multistep", milestones=(2,), gamma=0.1
    )
    net = SmallNet()
    net.load_state_dict(golden["state/initial"])
    trainer = StatisticTraining(SmallNet, group().data, recipe, seed=1)
    task = Task(net, prunable(net), [], Scoring(), seed=1, trainer=trainer)
    order = pruning_order(task, levels=3, fraction=0.2016, rewind=rewind)
    case = f"rewind_{rewind.split()[0]}"
    for level in (1, 2, 3):
        masks = golden[f"mask/{case}.level_{level}"]
        assert all(torch.equal(order[name] >= level, mask) for name, mask in masks.items())
        assert task.notes[f"kept_{level}"] == sum(int(mask.sum()) for mask in masks.values())
    accuracies = golden[f"accuracy/{case}"]
    assert all(task.notes[f"test_accuracy_{level}"] == accuracies[f"level_{level}"] for level in range(4))
    last = list(trainer.finished.values())[-1]["state"]
    for name, tensor in golden[f"trained/{case}"].items():
        torch.testing.assert_close(last[name], tensor, rtol=1e-9, atol=1e-12)

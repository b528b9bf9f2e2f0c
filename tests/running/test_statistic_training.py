"""Statistics that train: `task.train` trains as the run does, and continues to the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from networks import batches, golden
from savers import SaveAll
from torch import Tensor

import pbt_bench
from pbt_bench.data import load
from pbt_bench.errors import RequestError
from pbt_bench.pruning import plugins, pruner, statistic
from pbt_bench.pruning.diagnosis import all_kept
from pbt_bench.pruning.plugins import pruners, statistics
from pbt_bench.pruning.task import Task, Tensors, TrainedNetwork
from pbt_bench.running.execute import Executor
from pbt_bench.running.group import Group
from pbt_bench.spec import Recipe, RunSpec
from pbt_bench.training.loop import train

RECIPE = Recipe(epochs=2, batch_size=512, learning_rate=0.05, augment="crop-flip", crop_padding=1)
SPEC = RunSpec(dataset="digits", model="vgg8", method="trained_twice", sparsity=0.7, seed=3, recipe=RECIPE)
RESULTS: list[TrainedNetwork] = []


def group() -> Group:
    return Group(SPEC, load("digits", Path("data")), torch.device("cpu"))


@pytest.fixture(autouse=True)
def own_method() -> Iterator[None]:
    """A method of one search: train, prune half by magnitude, rewind to step 2, and train again."""
    pruners()

    @statistic(cite="none", data=False, trains=True)
    def trained_twice_weights(task: Task, *, rewind: int = 2) -> Tensors:
        first = task.train()
        weights = {name: first.state[name] for name in task.parameters}
        half = torch.cat([weight.abs().flatten() for weight in weights.values()]).median()
        masks = {name: weight.abs() > half for name, weight in weights.items()}
        early = task.train(end=rewind)
        second = task.train(masks, early.state, begin=rewind)
        RESULTS[:] = [first, early, second]
        return {name: second.state[name] for name in task.parameters}

    @pruner(cite="none")
    def trained_twice(trained_twice_weights: Tensor) -> Tensor:
        return trained_twice_weights.abs()

    yield
    plugins._PRUNERS.remove_from(Path(__file__))
    plugins._STATISTICS.remove_from(Path(__file__))
    RESULTS.clear()


def test_it_is_the_training_of_the_run_and_masks_hold() -> None:
    shared = group()
    before = {name: tensor.clone() for name, tensor in shared.model.state_dict().items()}
    masked = shared.mask(SPEC)
    assert all(torch.equal(tensor, before[name]) for name, tensor in shared.model.state_dict().items())
    first, early, second = RESULTS
    plain = shared.build(SPEC.seed)
    trained = train(plain, all_kept(plain), shared.data, RECIPE, SPEC.seed)
    assert all(torch.equal(tensor, first.state[name]) for name, tensor in plain.state_dict().items())
    assert first.validation_accuracy == trained.curve[-1].validation_accuracy
    assert not all(torch.equal(early.state[name], first.state[name]) for name in first.state)
    names = list(masked.masks)
    zeros = sum(int((second.state[name] == 0).sum()) for name in names)
    total = sum(second.state[name].numel() for name in names)
    assert total // 2 <= zeros < 0.51 * total
    assert sum(int(mask.sum()) for mask in masked.masks.values()) == total - int(0.7 * total)


def test_saved_after_any_step_it_ends_with_the_same_masks() -> None:
    saver = SaveAll()
    expected = group().mask(SPEC, saver).masks
    results = list(RESULTS)
    assert len(saver.states) == 6 + 2 + 4, "the steps of the three trainings"
    for done, state in enumerate(saver.states, 1):
        later = SaveAll()
        found = group().mask(SPEC, later, state).masks
        assert len(later.states) == 12 - done, "no step is repeated"
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        for ours, theirs in zip(RESULTS, results, strict=True):
            assert all(torch.equal(ours.state[name], theirs.state[name]) for name in theirs.state)


def test_only_a_run_can_train() -> None:
    net, x, y, _ = golden()
    with pytest.raises(RequestError, match="only a run of a grid, and a statistic with trains=True, can train"):
        pbt_bench.score(net, batches(x, y, 48), method="trained_twice")
    assert statistics()["trained_twice_weights"].trains


def test_a_run_with_such_a_method_has_a_record() -> None:
    executed = Executor(Path("data"), torch.device("cpu")).execute(SPEC)
    assert executed.record.status == "done", executed.record.error
    again = Executor(Path("data"), torch.device("cpu")).execute(SPEC).record
    assert executed.record.metrics == again.metrics

"""The warm-up of EarlyCroP: against its published code, against the rule written plainly, and interrupted."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from savers import SaveAll
from torch import Tensor, nn

from pbt_bench.data import load
from pbt_bench.running.execute import Executor
from pbt_bench.running.group import Group
from pbt_bench.spec import Recipe, RunSpec
from pbt_bench.training.early_crop import EarlyCrop
from pbt_bench.training.loop import warm_up
from pbt_bench.training.stepper import Stepper

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "early_crop.npz")
RECIPE = Recipe(epochs=8, batch_size=650, schedule="multistep", milestones=(4, 6))  # two steps an epoch
SPEC = RunSpec(
    dataset="digits",
    model="lenet-300-100",
    method="magnitude",
    sparsity=0.5,
    seed=1,
    recipe=RECIPE,
    warmup="early_crop",
)


def group(spec: RunSpec = SPEC) -> Group:
    return Group(spec, load("digits", Path("data")), torch.device("cpu"))


class Two(nn.Module):
    """Two parameters of 40 numbers in all."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(4, 6, dtype=torch.float64))
        self.second = nn.Parameter(torch.zeros(16, dtype=torch.float64))


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8, 0.9, 0.98, 0.995])
def test_it_ends_after_the_epoch_of_the_published_code(sparsity: float) -> None:
    model, rule = Two(), EarlyCrop(1 - sparsity)
    weights = torch.tensor(GOLDEN["weights"])
    for row in weights:
        model.first.data, model.second.data = row[:24].view(4, 6).clone(), row[24:].clone()
        if ended := rule.ends(model):
            break
    notes = rule.notes()
    assert (rule.epochs, ended) == (int(GOLDEN[f"epochs/{sparsity}"]), bool(GOLDEN[f"ended/{sparsity}"]))
    distances = [notes[f"distance_{epoch}"] for epoch in range(2, rule.epochs + 1)]
    np.testing.assert_allclose(distances, GOLDEN[f"distances/{sparsity}"], rtol=1e-14)
    assert distances[0] * (1 - sparsity) == pytest.approx(float(GOLDEN[f"threshold/{sparsity}"]), rel=1e-14)


def plain(factor: float) -> tuple[Tensor, int, bool]:
    """Return the last parameters, the epochs and whether the rule ended them, from the parameters of all epochs."""
    shared = group()
    model = shared.build(SPEC.seed)
    stepper = Stepper(model, {}, shared.data, RECIPE, SPEC.seed, "warm-up")
    found = []
    for epoch in range(1, RECIPE.epochs + 1):
        stepper.train(epoch * stepper.steps_per_epoch)
        found.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
    first = found[0].double()
    moved = [float((first - after.double()).norm() / first.norm()) for after in found]
    for epoch in range(2, len(found)):
        if abs(moved[epoch] - moved[epoch - 1]) < factor * moved[1]:
            return found[epoch], epoch + 1, True
    return found[-1], RECIPE.epochs, False


@pytest.mark.parametrize(
    ("duration", "factor"), [("early_crop", 0.5), ("early_crop 0.1", 0.1), ("early_crop 0.01", 0.01)]
)
def test_a_warm_up_ends_by_the_rule_or_with_the_recipe(duration: str, factor: float) -> None:
    shared = group()
    spec = msgspec.structs.replace(SPEC, warmup=duration)
    shared.warm_up(spec, None, None)
    weights, epochs, ended = plain(factor)
    assert torch.equal(nn.utils.parameters_to_vector(shared.model.parameters()), weights)
    notes = shared.mask(spec).pruning.notes["warmup"]
    assert (notes["epochs"], notes["steps"], notes["ended"]) == (epochs, 2 * epochs, ended)


def test_saved_after_any_step_it_ends_with_the_same_bits() -> None:
    shared, saver = group(), SaveAll()
    model = shared.build(SPEC.seed)
    notes = warm_up(model, shared.data, RECIPE, SPEC.seed, "early_crop", saver, sparsity=0.5)
    assert len(saver.states) == notes["steps"]
    for done, state in enumerate(saver.states, 1):
        again, later = shared.build(SPEC.seed), SaveAll()
        assert warm_up(again, shared.data, RECIPE, SPEC.seed, "early_crop", later, state, sparsity=0.5) == notes
        assert len(later.states) == notes["steps"] - done, "no step is repeated"
        for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_runs_with_the_same_threshold_share_the_warm_up() -> None:
    def of(**values: object) -> tuple[object, ...]:
        return msgspec.structs.replace(SPEC, **values).group

    assert of() == of(method="snip", scope="layer") != of(sparsity=0.9)
    assert of(warmup="early_crop 0.1") == of(warmup="early_crop 0.1", sparsity=0.9) != of(warmup="early_crop 0.2")


def test_the_record_has_the_step_at_which_the_weights_are_scored() -> None:
    executor = Executor(Path("data"), torch.device("cpu"))
    record = executor.execute(msgspec.structs.replace(SPEC, recipe=msgspec.structs.replace(RECIPE, epochs=3))).record
    assert record.status == "done", record.error
    assert record.pruning is not None
    assert record.pruning.notes["warmup"]["steps"] == 6
    assert set(record.pruning.notes["warmup"]) == {"steps", "epochs", "ended", "distance_2", "distance_3"}

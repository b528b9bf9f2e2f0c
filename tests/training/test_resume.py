"""Tests that training which was saved after any step and continued elsewhere ends with the same bits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from savers import SaveAll
from torch import Tensor, nn

from pbt_bench.data import datasets
from pbt_bench.data.run_data import Data, prepare
from pbt_bench.models import build
from pbt_bench.spec import Recipe
from pbt_bench.training.loop import StateError, Trained, train, warm_up


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    dataset = datasets()["digits"].load(tmp_path_factory.mktemp("data"))
    return prepare(dataset, 0.15, 0, torch.device("cpu"))


def network() -> tuple[nn.Module, dict[str, Tensor]]:
    model = build("resnet8", 1, 10, seed=0)
    model.classifier = nn.Sequential(nn.Dropout(0.3), model.classifier)  # type: ignore[arg-type]  # reads the global generator
    generator = torch.Generator().manual_seed(1)
    masks = {
        name: torch.rand(p.shape, generator=generator) > 0.9 for name, p in model.named_parameters() if p.ndim == 4
    }
    return model, masks


def weights(model: nn.Module) -> Tensor:
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])


def outcome(trained: Trained) -> list[Any]:
    return [
        [(e.train_loss, e.train_accuracy, e.validation_loss, e.learning_rate) for e in trained.curve],
        trained.best_epoch,
        trained.best_test,
        trained.best_state and weights_of(trained.best_state),
    ]


def weights_of(state: dict[str, Tensor]) -> list[float]:
    return [float(tensor.double().sum()) for tensor in state.values()]


RECIPES = {
    "momentum": Recipe(epochs=3, batch_size=256, augment="crop-flip", crop_padding=1, test_every_epoch=True),
    "adamw": Recipe(epochs=2, batch_size=256, optimizer="adamw", learning_rate=0.01, augment="crop", crop_padding=1),
    "low": Recipe(epochs=2, batch_size=256, precision="bfloat16", execution="compact"),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_saved_after_any_step_it_ends_with_the_same_bits(data: Data, recipe: Recipe) -> None:
    saver = SaveAll()
    model, masks = network()
    whole = train(model, masks, data, recipe, 0, saver=saver)
    states = saver.states
    assert len(states) > recipe.epochs * 5  # saved after every step and during evaluation
    for state in states[:: max(1, len(states) // 6)] + states[-1:]:
        torch.rand(7)  # as in another process: another state of the global generator
        again, masks = network()
        resumed = train(again, masks, data, recipe, 0, state=copy.deepcopy(state))
        assert torch.equal(weights(again), weights(model))
        assert outcome(resumed) == outcome(whole)


def test_the_seconds_before_an_interruption_count(data: Data) -> None:
    recipe, saver = Recipe(epochs=2, batch_size=256), SaveAll()
    train(*network(), data, recipe, 0, saver=saver)
    assert 0 < saver.states[0]["seconds"] < 60
    first, second = train(*network(), data, recipe, 0, state=saver.states[0] | {"seconds": 1000.0}).curve
    assert 1000 < first.seconds < 1060
    assert 0 < second.seconds < 60


@pytest.mark.parametrize("duration", ["2 epochs", "9 steps"])
def test_a_warm_up_continues_to_the_same_bits(data: Data, duration: str) -> None:
    recipe = Recipe(epochs=1, batch_size=256, augment="crop", crop_padding=1)
    saver = SaveAll()
    model, _ = network()
    warm_up(model, data, recipe, 0, duration, saver)
    assert len(saver.states) >= 9
    for state in saver.states:
        again, _ = network()
        warm_up(again, data, recipe, 0, duration, state=state)
        assert torch.equal(weights(again), weights(model))


def test_a_state_of_another_training_is_refused(data: Data) -> None:
    saver = SaveAll()
    model, masks = network()
    train(model, masks, data, RECIPES["adamw"], 0, saver=saver)
    other = build("vgg8", 1, 10, seed=0)
    for state in (saver.states[0], {}, {"stepper": {"model": 3}}, {**saver.states[0], "curve": [{"epoch": 1}]}):
        with pytest.raises(StateError):
            train(other, {}, data, RECIPES["adamw"], 0, state=state)

"""Masks that change during training: equal to the published code, exact after every step, resumable at every step."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from math import nan

import numpy as np
import pytest
import torch
from networks import GOLDEN
from savers import SaveAll
from torch import Tensor, nn

from pbt_bench.data.image_tensors import Images
from pbt_bench.data.run_data import Data
from pbt_bench.errors import RequestError
from pbt_bench.mask_update_schedules import GMP, SCHEDULES, SET, RigL, Schedule
from pbt_bench.models import build
from pbt_bench.models.prunable import Masks
from pbt_bench.pruning.diagnosis import all_kept
from pbt_bench.pruning.masks import pruned_count
from pbt_bench.spec import Recipe
from pbt_bench.training.loop import train
from pbt_bench.training.mask_updates import MaskUpdates, drop_and_grow
from pbt_bench.training.stepper import Stepper

PUBLISHED = dict(np.load(GOLDEN.with_name("mask_updates.npz")))
OFTEN: dict[str, Schedule] = {
    "set": SET(interval=3, end=1.0),
    "rigl": RigL(interval=4, end=1.0),
    "gmp": GMP(begin=0.1, end=0.8, interval=2),
}


def published_training(name: str, schedule: Schedule) -> tuple[Stepper, Iterator[list[Tensor]]]:
    """Return a stepper on the published network and data, and its masks after each step."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (12, 16), generator=generator).to(torch.uint8).view(12, 1, 4, 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 24, bias=False), nn.ReLU(), nn.Linear(24, 3, bias=False))
    layers = dict(model.named_parameters())
    with torch.no_grad():
        for weight in layers.values():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    densities = {"1.weight": 0.4, "3.weight": 0.6}
    masks = {key: torch.rand(w.shape, generator=generator) < densities[key] for key, w in layers.items()}
    images = Images(pixels, torch.arange(12) % 3)
    data = Data(images, images, images, 3, torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
    recipe = Recipe(epochs=30, batch_size=12, weight_decay=0.0, schedule="constant")
    stepper = Stepper(model, masks, data, recipe, 0, "train", MaskUpdates(schedule, 0.5, "global", 0))

    def masks_of_steps() -> Iterator[list[Tensor]]:
        for number in range(1, 31):
            stepper.epoch(number)
            yield list(stepper.masks.values())

    return stepper, masks_of_steps()


@pytest.mark.parametrize(
    ("name", "schedule"),
    [("rigl", RigL(interval=6, end=1.0, anneal="constant")), ("set", SET(interval=5, end=1.0))],
)
def test_thirty_steps_are_those_of_the_published_code(name: str, schedule: Schedule) -> None:
    """Its RigL does not count an update as a step: an interval of 5 there is one of 6 here.

    Masks are equal after every step, and weights after the last; SET grows by the same random numbers.
    """
    stepper, steps = published_training(name, schedule)
    for number, masks in enumerate(steps):
        for index, mask in enumerate(masks):
            packed = np.packbits(mask.numpy().reshape(-1))
            assert (packed == PUBLISHED[f"{name}/masks{index}"][number]).all(), (number, index)
    for index, weight in enumerate(stepper.model.parameters()):
        torch.testing.assert_close(weight.detach(), torch.tensor(PUBLISHED[f"{name}/weights{index}"]))
    assert stepper.update_count == {"rigl": 5, "set": 6}[name]


def test_the_sparsity_of_gmp_is_that_of_the_published_schedule() -> None:
    """Compare from step 20 to step 75 of 100; the published schedule counts the steps before the one being taken."""
    schedule = GMP(begin=0.2, end=0.75, interval=1)
    for done in range(20, 100):
        expected = PUBLISHED["gmp/sparsity"][done]
        assert schedule.sparsity(done + 1, 100, 0.9) == pytest.approx(expected, abs=1e-6)
    assert schedule.sparsity(75, 100, 0.9) == 0.9
    assert [step for step in range(1, 101) if GMP(begin=0.2, end=0.75, interval=20).due(step, 100)] == [40, 60, 75]
    assert [step for step in range(1, 8) if GMP().due(step, 7)] == [5], "the target is reached in a short training too"
    assert [step for step in range(1, 3) if GMP(begin=0, end=0).due(step, 2)] == [1]


def test_updates_are_due_at_the_interval_until_the_end() -> None:
    assert [step for step in range(40) if SET(interval=10).due(step, 40)] == [1, 11, 21]
    assert [step for step in range(40) if RigL(interval=10).due(step, 40)] == [0, 10, 20, 30]
    shares = [RigL(interval=10).share(step, 40) for step in (0, 15, 30)]
    assert shares == pytest.approx([0.3, 0.15, 0.0])
    assert SET().share(20, 40) == 0.3
    with pytest.raises(RequestError, match=r"begin = 0.8 must be at most end = 0.75"):
        GMP(begin=0.8)


@pytest.mark.parametrize(
    ("kept", "share", "size"), [(0, 0.5, 40), (1, 0.9, 40), (7, 0.5, 40), (40, 0.3, 40), (20, 1.0, 40), (0, 0.5, 0)]
)
def test_as_many_weights_grow_as_are_dropped(kept: int, share: float, size: int) -> None:
    generator = torch.Generator().manual_seed(kept)
    mask = torch.zeros(size, dtype=torch.bool)
    mask[torch.randperm(size, generator=generator)[:kept]] = True
    weight = torch.randn(size, generator=generator) * mask
    after = drop_and_grow(weight, mask, torch.rand(size, generator=generator), share)
    assert int(after.sum()) == kept
    lowest = weight.abs()[mask].sort().values[: int(kept * share)]
    assert set(weight.abs()[mask & ~after].tolist()) <= set(lowest.tolist())
    assert int((mask & ~after).sum()) <= int(kept * share)


def test_a_layer_of_equal_or_undefined_weights_keeps_its_number() -> None:
    mask = torch.arange(10) % 2 == 0
    for value in (0.0, 1.0, nan, float("inf")):
        after = drop_and_grow(torch.full((10,), value), mask, torch.full((10,), abs(value)), 0.6)
        assert int(after.sum()) == 5


def network(name: str = "resnet8", density: float = 0.1) -> tuple[nn.Module, Masks]:
    model = build(name, 1, 3, seed=0)
    generator = torch.Generator().manual_seed(1)
    return model, {
        key: torch.rand(p.shape, generator=generator) < density for key, p in model.named_parameters() if p.ndim > 1
    }


def images() -> Data:
    generator = torch.Generator().manual_seed(0)
    train = Images(torch.randint(0, 256, (24, 1, 8, 8), generator=generator).to(torch.uint8), torch.arange(24) % 3)
    return Data(train, train, train, 3, torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1))


def begin(name: str, model: nn.Module, masks: Masks) -> Masks:
    return all_kept(model) if name == "gmp" else masks


@pytest.mark.parametrize("execution", ["dense", "compact"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("name", OFTEN)
def test_the_sparsity_is_exact_after_every_step_and_new_weights_have_no_momentum(
    name: str, optimizer: str, execution: str
) -> None:
    recipe = Recipe(epochs=4, batch_size=8, optimizer=optimizer, learning_rate=0.01, execution=execution)
    model, masks = network()
    updates = MaskUpdates(OFTEN[name], 0.9, "erk", 0)
    stepper = Stepper(model, begin(name, model, masks), images(), recipe, 0, "train", updates)
    parameters = dict(model.named_parameters())
    total = sum(mask.numel() for mask in masks.values())
    seen = [stepper.masks]
    counts = {key: int(mask.sum()) for key, mask in masks.items()}

    def check() -> None:
        step = stepper.step
        for key, mask in stepper.masks.items():
            assert not parameters[key][~mask].any()
            if name != "gmp":
                assert int(mask.sum()) == counts[key]
            state = stepper.optimizer.state[stepper._updated[key]]
            if key not in stepper._kept and stepper.masks is not seen[-1]:  # just updated
                changed = mask != seen[-1][key]
                assert not any(value[changed | ~mask].any() for value in state.values() if value.ndim)
        if name == "gmp":
            schedule = OFTEN["gmp"]
            assert isinstance(schedule, GMP)
            last = max((each for each in range(1, step + 1) if schedule.due(each, 12)), default=None)
            pruned = 0 if last is None else pruned_count(schedule.sparsity(last, 12, 0.9), total)
            assert sum(int((~mask).sum()) for mask in stepper.masks.values()) == pruned
        seen.append(stepper.masks)

    for epoch in range(1, 5):
        stepper.epoch(epoch, after_step=check)
    assert stepper.update_count == {"set": 4, "rigl": 3, "gmp": 4}[name]
    assert any(not torch.equal(old[key], new[key]) for old, new in pairwise(seen) for key in old)
    if name == "gmp":
        assert all(bool((old[key] | ~new[key]).all()) for old, new in pairwise(seen) for key in old), "none returns"
        assert sum(int((~mask).sum()) for mask in stepper.masks.values()) == pruned_count(0.9, total)


@pytest.mark.parametrize("name", OFTEN)
def test_sparse_execution_makes_the_same_masks_as_dense_execution(name: str) -> None:
    found = []
    for execution in ("dense", "compact"):
        recipe = Recipe(epochs=3, batch_size=8, learning_rate=0.01, execution=execution)
        model, masks = network()
        model.double()
        data = images()
        data = Data(data.train, data.train, data.train, 3, data.mean.double(), data.std.double())
        trained = train(
            model, begin(name, model, masks), data, recipe, 0, updates=MaskUpdates(OFTEN[name], 0.9, "global", 0)
        )
        found.append((trained.masks, model.state_dict()))
    (masks, weights), (others, other_weights) = found
    assert all(torch.equal(mask, others[key]) for key, mask in masks.items())
    for key, tensor in weights.items():
        torch.testing.assert_close(tensor, other_weights[key], rtol=1e-6, atol=1e-9)


def test_rigl_grows_by_the_gradient_of_all_weights_and_computes_it_at_updates_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Compare the gradient that an update reads with one of the masked network, computed plainly."""
    model, masks = network(density=0.05)
    data = images()
    recipe = Recipe(epochs=2, batch_size=24, execution="compact")
    read: list[dict[str, Tensor]] = []
    original = MaskUpdates.masks

    def recorded(self: MaskUpdates, network: nn.Module, *rest: object) -> Masks:
        read.append({key: p.grad.clone() for key, p in network.named_parameters() if p.grad is not None})
        return original(self, network, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(MaskUpdates, "masks", recorded)
    plain = copy.deepcopy(model)
    stepper = Stepper(model, masks, data, recipe, 0, "train", MaskUpdates(RigL(interval=4), 0.95, "erk", 0))
    stepper.epoch(1)
    for key, mask in masks.items():
        dict(plain.named_parameters())[key].data.mul_(mask)
    plain.train()
    nn.functional.cross_entropy(plain(data.inputs(data.train.pixels)), data.train.targets).backward()
    assert len(read) == 1
    for key, parameter in plain.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(read[0][key], parameter.grad, rtol=1e-3, atol=1e-5)
    assert any(bool(read[0][key][~mask].any()) for key, mask in masks.items())
    dense_gradients = [bool((p.grad is not None) and key in stepper._kept) for key, p in model.named_parameters()]
    assert stepper._kept
    assert not any(dense_gradients)


@pytest.mark.parametrize("name", OFTEN)
def test_a_training_continues_to_the_same_bits_at_and_between_updates(name: str) -> None:
    recipe = Recipe(epochs=3, batch_size=8, augment="crop", crop_padding=1)
    updates = MaskUpdates(OFTEN[name], 0.9, "global", 0)

    def outcome(state: dict[str, object] | None, saver: SaveAll | None = None) -> tuple[list[float], list[Tensor]]:
        model, masks = network()
        trained = train(
            model, begin(name, model, masks), images(), recipe, 0, saver=saver, state=state, updates=updates
        )
        tensors = [*model.state_dict().values(), *trained.masks.values()]
        return [*(epoch.train_loss for epoch in trained.curve), *trained.update_notes.values()], tensors

    saver = SaveAll()
    losses, tensors = outcome(None, saver)
    assert len(saver.states) > 9
    for state in saver.states:
        torch.rand(3)
        again, others = outcome(copy.deepcopy(state))
        assert again == losses
        assert all(torch.equal(one, other) for one, other in zip(tensors, others, strict=True))


def test_attention_keeps_the_number_of_weights_of_each_projection() -> None:
    model = nn.Sequential(nn.MultiheadAttention(8, 2))
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(24, 8, generator=generator) < torch.tensor([0.1, 0.5, 0.9]).repeat_interleave(8)[:, None]
    model[0].in_proj_weight.data.mul_(mask)
    updates = MaskUpdates(SET(drop_fraction=0.5), 0.5, "erk", 0)
    after = updates.masks(model, {"0.in_proj_weight": mask}, 1, 10)["0.in_proj_weight"]
    assert [int(part.sum()) for part in after.chunk(3)] == [int(part.sum()) for part in mask.chunk(3)]
    assert not torch.equal(after, mask)


def test_every_schedule_is_tested() -> None:
    assert OFTEN.keys() == SCHEDULES.keys()

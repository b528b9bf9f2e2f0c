"""`task.train`: statistics of a run train networks, and an interrupted run continues within them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from pbt_bench.data.run_data import Data
from pbt_bench.errors import RequestError
from pbt_bench.pruning.masks import check_masks
from pbt_bench.pruning.task import TrainedNetwork
from pbt_bench.spec import Recipe
from pbt_bench.training.loop import Saver, check_state, evaluate, steps_of
from pbt_bench.training.stepper import State, Stepper


@dataclass
class StatisticTraining:
    """Trains networks for the statistics of one run, each a copy of the run's network.

    `finished` has the results of the trainings by the statistic's name and their number; it is part of every saved
    state.
    """

    build: Callable[[], nn.Module]
    data: Data
    recipe: Recipe
    seed: int
    saver: Saver | None = None
    saved: State | None = None
    finished: State = field(default_factory=dict)
    name: str = ""
    _count: int = 0

    def __post_init__(self) -> None:
        if self.saved:
            with check_state():
                self.finished.update(self.saved["finished"])

    def of(self, statistic: str) -> StatisticTraining:
        """Return the trainer of a statistic."""
        return StatisticTraining(
            self.build, self.data, self.recipe, self.seed, self.saver, self.saved, self.finished, statistic
        )

    def __call__(
        self, masks: Mapping[str, Tensor], state: Mapping[str, Tensor], begin: str | int, end: str | int | None
    ) -> TrainedNetwork:
        """Train one network, or return the result of this training before the interruption."""
        self._count += 1
        key = f"{self.name} {self._count}"
        device = next(iter(state.values())).device
        if key not in self.finished:
            self.finished[key] = self._trained(key, masks, state, begin, end)
        with check_state():
            weights = {name: tensor.to(device) for name, tensor in self.finished[key]["state"].items()}
            accuracies = self.finished[key]["validation_accuracy"], self.finished[key]["test_accuracy"]
            return TrainedNetwork(weights, *accuracies)

    def _trained(
        self,
        key: str,
        masks: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        begin: str | int,
        end: str | int | None,
    ) -> State:
        model = self.build()
        model.load_state_dict(dict(state))
        check_masks(masks, model)
        stepper = Stepper(model, dict(masks), self.data, self.recipe, self.seed, "train")
        steps = stepper.steps_per_epoch
        first, last = steps_of(begin, steps), steps_of(f"{self.recipe.epochs} epochs" if end is None else end, steps)
        if 0 < first >= last:
            raise RequestError(f"training from {begin!r} (step {first}) has no step: it ends at step {last}")
        stepper.begin_at(first)
        if self.saved and self.saved["training"] == key:
            with check_state():
                stepper.load(self.saved["stepper"])

        def save_if_due() -> None:
            if self.saver and self.saver.due():
                self.saver.save({"finished": self.finished, "training": key, "stepper": stepper.state()})

        stepper.train(last, save_if_due)
        held = evaluate(model, self.data, self.data.validation) if len(self.data.validation) else None
        weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        return {
            "state": weights,
            "validation_accuracy": held.accuracy if held else None,
            "test_accuracy": evaluate(model, self.data, self.data.test).accuracy,
        }

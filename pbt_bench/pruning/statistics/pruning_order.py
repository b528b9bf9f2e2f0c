"""The order in which iterative magnitude pruning removes weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor

from pbt_bench.constraints import at_least, between
from pbt_bench.pruning.plugins import statistic
from pbt_bench.pruning.task import Task, Tensors
from pbt_bench.spec import Rewind


@statistic(
    cite="Frankle and Carbin 2019, arXiv:1803.03635, Sec. 1",
    data=False,
    trains=True,
    symbol="k",
    formula=r"k = \min \{\, l \;:\; \text{level } l \text{ prunes the weight} \,\}",
)
def pruning_order(
    task: Task,
    *,
    levels: Annotated[int, at_least(1)] = 24,
    fraction: Annotated[float, between(0.001, 0.999)] = 0.2,
    rewind: Rewind = "0",
) -> Tensors:
    """Order the weights as iterative magnitude pruning removes them: train, prune, rewind, and begin again.

    Dense training up to `rewind` ("0", "N epochs" or "N steps") of the recipe of the run gives the weights to which
    networks are rewound. Every level trains from them to the end of the recipe, under the masks so far, and prunes the
    `fraction` of the remaining weights that have the smallest magnitudes in all layers. The training of the run begins
    with the same weights at the same step. Momentum begins at zero there, as in facebookresearch/open_lth. A `warmup`
    of the run is training before step 0, with steps of its own.

    The value of a weight is the number of the level that prunes it (`levels` if none does) plus its rank by magnitude
    there, divided by the number of weights. One order serves every sparsity: between two levels, the last one prunes
    fewer weights. The notes have the number of trained weights, and the accuracies after training, of every level.
    """
    start: Mapping[str, Tensor] = task.model.state_dict()
    begin: str | int = 0 if rewind == "0" else rewind
    if begin:
        start = task.train(end=begin).state
        task.begin_run(start, begin)
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in task.parameters.items()}
    order = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in task.parameters.items()}
    sizes = [p.numel() for p in task.parameters.values()]
    for level in range(levels + 1):
        trained = task.train(masks, start, begin)
        task.notes[f"kept_{level}"] = float(sum(int(mask.sum()) for mask in masks.values()))
        task.notes[f"test_accuracy_{level}"] = trained.test_accuracy
        if trained.validation_accuracy is not None:
            task.notes[f"validation_accuracy_{level}"] = trained.validation_accuracy
        kept = torch.cat([mask.flatten() for mask in masks.values()])
        magnitude = torch.cat([trained.state[name].flatten().abs() for name in masks]).where(kept, -1.0)
        rank = torch.empty_like(magnitude, dtype=torch.float64)
        rank[magnitude.argsort(stable=True)] = torch.arange(len(rank), dtype=torch.float64, device=rank.device)
        for (name, mask), values in zip(masks.items(), (level + rank / len(rank)).split(sizes), strict=True):
            order[name] = values.view_as(mask).where(mask, order[name])
        left = int(kept.sum())
        still = (rank >= len(rank) - left + int(fraction * left)).split(sizes)
        masks = {name: part.view_as(mask) for (name, mask), part in zip(masks.items(), still, strict=True)}
    return order

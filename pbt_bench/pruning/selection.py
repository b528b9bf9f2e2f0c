"""From scores to masks: which weights the highest scores are sought among."""

from __future__ import annotations

from collections.abc import Callable

from pbt_bench.models.prunable import Masks, packed_projections
from pbt_bench.pattern_names import parse
from pbt_bench.pruning.masks import Ranking
from pbt_bench.pruning.patterns import channels, n_of_m, transposed_groups
from pbt_bench.pruning.task import Task, Tensors

Selection = Callable[[Tensors, int, Masks | None], Masks]


def selection(task: Task, scope: str, pattern: str) -> Selection:
    """Return a function of scores, the number of pruned weights, and the masks so far (None: weights may return).

    It returns masks: without a pattern, those of the highest scores of the scope. With pattern "N:M", n of every M
    scores are kept, n the share of kept weights times M, rounded down, at least N. With "channel", whole channels are
    removed.
    """
    total = sum(p.numel() for p in task.parameters.values())
    shape = parse(pattern)
    if shape is None:
        packed = packed_projections(task.model)
        return lambda scores, pruned, before: Ranking(scores, scope, True, packed).keep(total - pruned, before)
    if shape.group is None:
        example = task.batches[0][0][:1]
        return lambda scores, pruned, _: channels(task.model, scores, example, pruned)
    (n, m), transposed = shape.group, transposed_groups(task.model)
    return lambda scores, pruned, _: n_of_m(scores, max(n, m * (total - pruned) // total), m, transposed)

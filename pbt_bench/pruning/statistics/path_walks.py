"""The order in which random walks visit the weights (PHEW)."""

from __future__ import annotations

import torch

from pbt_bench.connectivity.channel_graph import channel_graph
from pbt_bench.connectivity.random_walks import Walks
from pbt_bench.pruning import checks, tuning
from pbt_bench.pruning.plugins import statistic
from pbt_bench.pruning.task import Task, Tensors
from pbt_bench.seeds import stream

VISITED_SHARE = 0.6  # share of visited weights at which the walks end: enough for every sparsity of at least 0.4
MOST_WALKS = 2  # largest number of walks per weight; a dense layer of normal or uniform weights needs about 1.2
UNVISITED = 2**31 - 1  # number of the first walk through a weight that no walk visits


@statistic(
    cite="Patil and Dovrolis 2021, arXiv:2010.11354, Sec. 4 (PHEW)",
    data=False,
    symbol="p",
    formula=r"p = -\min \{\, t \;:\; \text{walk } t \text{ visits the weight} \,\}",
)
def path_walks(task: Task) -> Tensors:
    """Compute -(number of the first walk that visited the weight, from 1), in float64.

    Walks start at the input and the output by turns, and there at every unit in turn; each takes the next weight w
    with probability |w| / Σ|w|: forward, Σ runs over the weights out of its unit, backward over those into it. The
    units of a convolution are channels, and Σ runs over kernel indices too (equal to the authors' two draws, of the
    kernel by its L1 norm and of the index within it). The weights visited first are kept.

    Our choices: (1) the method stops when it has kept enough; to serve every sparsity from one order, walks go on
    until VISITED_SHARE of all prunable weights is visited, or after MOST_WALKS walks per weight. Weights of one walk
    tie, so a threshold within a walk cuts one path, never more. (2) Weights that no walk visited rank below all
    others, by |θ|: -(walks + 3) + |θ| / max|θ|. (3) At a sum or where a tensor is used several times every branch,
    identity shortcuts included, is taken with equal probability, and so is one of the features that a channel becomes
    when it is flattened. The authors' code differs (ShreyasMalakarjunPatil/PHEW c4a0d40, Prune/phew_utils.py, lines
    172 to 251): it knows shortcuts only as 1x1 convolutions, so it never takes an identity shortcut, and its forward
    walk turns to such a shortcut one convolution before the tensor from which the shortcut starts. (4) Walks pass
    through weights that are not prunable alike.

    Raises RequestError for networks in which channels cannot be followed (attention, products of activations).
    """
    checks.require_output(task, as_weights=True)
    graph = channel_graph(task.model, task.parameters, task.batches[0][0], "path_walks")
    walks = Walks(graph, "path_walks")
    generator = stream(task.seed, "walks")
    first = {name: torch.full((p.numel(),), UNVISITED, dtype=torch.int32) for name, p in task.parameters.items()}
    total = sum(p.numel() for p in task.parameters.values())
    done, check = 0, 0
    while True:
        for name, index, walk in walks.run(done, tuning.WALKS_AT_ONCE, generator):
            first[name].scatter_reduce_(0, index, walk.int(), "amin")
        done += tuning.WALKS_AT_ONCE
        if done >= check:  # counting takes longer than walking
            check = int(done * 1.05)
            visited = sum(int((walk != UNVISITED).sum()) for walk in first.values())
            if visited >= VISITED_SHARE * total or done >= min(MOST_WALKS * total, UNVISITED - tuning.WALKS_AT_ONCE):
                break
    largest = max(float(p.detach().abs().max()) for p in task.parameters.values()) or 1.0
    scores = {}
    for name, p in task.parameters.items():
        order = first[name].view(p.shape).to(p.device)
        unvisited = p.detach().abs().double() / largest - (done + 3)
        scores[name] = unvisited.where(order == UNVISITED, -order.double() - 1)
    return scores

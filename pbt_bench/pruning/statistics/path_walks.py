"""The order in which random walks visit the weights."""

from __future__ import annotations

from collections.abc import Collection

import torch

from pbt_bench.pruning.graph import trace
from pbt_bench.pruning.statistics import Task, Tensors, provides
from pbt_bench.pruning.walks import Walks
from pbt_bench.seeds import stream

BATCH = 4096  # walks at once: more walks cost hardly more time until they are thousands
VISITED = 0.6  # stop there: sparsities from 0.4 up keep visited weights only, and every further weight costs more walks
WALKS = 2  # per weight, at most; one dense layer of normal or uniform weights reaches VISITED with about 1.2
NEVER = 2**31 - 1


@provides(data=False, path_walks="Patil and Dovrolis 2021, arXiv:2010.11354, Sec. 4 (PHEW)")
def path_walks(task: Task, wanted: Collection[str]) -> dict[str, Tensors]:
    """-(number of the first walk that visited the weight, from 1), in float64.

    Walks start at the input and the output by turns, and there at every unit in turn; each takes the next weight w
    with probability |w| / Σ|w|: forward Σ runs over the weights out of its unit, backward over those into it, and
    in a convolution, whose units are channels, over kernel positions too (the authors' two draws, of the kernel by
    its L1 norm and of the position within it, come to the same). The wanted number of weights visited first is kept.

    Our choices: (1) the method stops when it has kept enough; to serve every sparsity from one order, walks go on
    until a share VISITED of all prunable weights is visited, or after WALKS walks per weight. Weights of one walk
    tie, so a threshold within a walk cuts one path, never more. (2) Weights that no walk visited rank below all
    others, by |θ|: -(walks + 3) + |θ| / max|θ|. (3) At a sum or where a tensor is used several times every branch,
    identity shortcuts included, is taken with equal probability, and so is one of the features that a channel becomes
    when it is flattened. The authors' code differs (ShreyasMalakarjunPatil/PHEW c4a0d40, Prune/phew_utils.py, lines
    172 to 251): it knows shortcuts only as 1x1 convolutions, so it never takes an identity shortcut, and its forward
    walk turns to such a shortcut one convolution before the tensor from which the shortcut starts. (4) Walks pass
    through weights that are not prunable alike.

    Raises RequestError for networks in which channels cannot be followed (attention, products of activations).
    """
    task.require_output(as_weights=True)
    graph = trace(task.model, task.parameters, task.batches[0][0])
    walks = Walks(graph)
    generator = stream(task.seed, "walks")
    first = {name: torch.full((p.numel(),), NEVER, dtype=torch.int32) for name, p in task.parameters.items()}
    total = sum(p.numel() for p in task.parameters.values())
    done, check = 0, 0
    while True:
        for name, index, walk in walks.run(done, BATCH, generator):
            first[name].scatter_reduce_(0, index, walk.int(), "amin")
        done += BATCH
        if done >= check:  # to count takes longer than to walk, so not every time
            check = int(done * 1.05)
            visited = sum(int((walk != NEVER).sum()) for walk in first.values())
            if visited >= VISITED * total or done >= min(WALKS * total, NEVER - BATCH):
                break
    largest = max(float(p.detach().abs().max()) for p in task.parameters.values()) or 1.0
    scores = {}
    for name, p in task.parameters.items():
        order = first[name].view(p.shape).to(p.device)
        unvisited = p.detach().abs().double() / largest - (done + 3)
        scores[name] = unvisited.where(order == NEVER, -order.double() - 1)
    return {"path_walks": scores}

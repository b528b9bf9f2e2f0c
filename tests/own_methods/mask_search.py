import torch
import torch.nn.functional as F
from torch.func import functional_call

from pbt_bench.pruning import pruner, statistic
from pbt_bench.pruning.masks import quotas


@statistic(cite="made for the tests", per_sparsity=True)
def best_of(task, *, candidates=4, scope="erk"):
    """The random mask with the smallest loss on the first batch."""
    kept = quotas({name: tuple(weight.shape) for name, weight in task.parameters.items()}, task.kept, scope)
    generator = task.generator("best_of")
    inputs, targets = task.batches[0]
    best, least = None, float("inf")
    for _ in range(candidates):
        masks = {}
        for name, weight in task.weights.items():
            mask = torch.zeros(weight.numel(), dtype=torch.bool)
            mask[torch.randperm(len(mask), generator=generator)[: kept[name]]] = True
            masks[name] = mask.view(weight.shape).to(weight.device)
        pruned = {name: weight * masks[name] for name, weight in task.weights.items()}
        with torch.no_grad():
            loss = float(F.cross_entropy(functional_call(task.model, pruned, (inputs,)), targets))
        if best is None or loss < least:
            best, least = masks, loss
    return best


@pruner(cite="made for the tests")
def luckiest(best_of):
    """The best of a few random masks."""
    return best_of

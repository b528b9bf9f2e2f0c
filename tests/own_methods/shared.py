import torch
import torch.nn.functional as F

from pbt_bench.pruning import pruner, statistic
from pbt_bench.pruning.task import shared_pass


@shared_pass
def sample_signs(task, *, samples):
    """The signs of the gradients of the first samples."""
    found = []
    for index in range(samples):
        inputs, targets = (part[index : index + 1] for part in task.batches[0])
        loss = F.cross_entropy(task.model(inputs), targets)
        found.append([g.sign() for g in torch.autograd.grad(loss, list(task.parameters.values()))])
    return {name: torch.stack(each) for name, each in zip(task.parameters, zip(*found, strict=True), strict=True)}


@statistic(cite="made for the tests")
def agreement(task, *, samples=4):
    """The magnitude of the mean sign."""
    return {name: signs.mean(0).abs() for name, signs in sample_signs(task, samples=samples).items()}


@statistic(cite="made for the tests")
def activity(task, *, samples=4):
    """The share of the samples with a gradient."""
    return {name: signs.abs().mean(0) for name, signs in sample_signs(task, samples=samples).items()}


@pruner(cite="made for the tests")
def agreeing(weight, agreement, activity):
    """|θ|·(a + b): agreement plus activity."""
    return weight.abs() * (agreement + activity)

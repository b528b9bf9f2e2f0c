import torch

from pbt_bench.pruning import pruner, statistic


@statistic(cite="made for the tests")
def output_spread(task):
    """The standard deviation of a layer's outputs on the scoring data, for every weight of the output channel."""
    names = {weight: name for name, weight in task.parameters.items()}
    outputs = {name: [] for name in task.parameters}

    def keep(module, inputs, output):
        channels = output.transpose(0, 1).flatten(1)
        outputs[names[module.weight]].append(channels)

    hooks = [
        module.register_forward_hook(keep)
        for module in task.model.modules()
        if getattr(module, "weight", None) in names
    ]
    with torch.no_grad():
        for inputs, _ in task.batches:
            task.model(inputs)
    for hook in hooks:
        hook.remove()
    spread = {name: torch.cat(each, 1).std(1) for name, each in outputs.items()}
    return {
        name: spread[name].view(-1, *[1] * (weight.dim() - 1)).expand_as(weight)
        for name, weight in task.parameters.items()
    }


@pruner(cite="made for the tests")
def lively(weight, output_spread):
    """|θ|·σ: weights of channels whose output varies."""
    return weight.abs() * output_spread

from pbt_bench.pruning import pruner, statistic


@statistic(cite="made for the tests", data=False, per_sparsity=True)
def layer_threshold(task):
    """The magnitude that a layer would be pruned at if all layers had the same density."""
    total = sum(weight.numel() for weight in task.parameters.values())
    values = {}
    for name, weight in task.weights.items():
        kept = max(1, round(weight.numel() * task.kept / total))
        values[name] = weight.abs().flatten().sort(descending=True).values[kept - 1].expand_as(weight)
    return values


@pruner(cite="made for the tests")
def relative_magnitude(weight, layer_threshold):
    """|θ|/t, with the threshold t of the layer."""
    return weight.abs() / layer_threshold

from pbt_bench.pruning import pruner


@pruner(cite="made for the tests")
def quiet(weight, gradient):
    """|θ|/(1 + |g|): large weights that the loss does not want to change."""
    return weight.abs() / (1 + gradient.abs())

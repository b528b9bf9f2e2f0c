from pbt_bench.pruning import pruner


@pruner(cite="made for the tests", rounds=4, regrow=True)
def returning(weight, gradient):
    """|θ·g| + |g|/10 in 4 rounds: a pruned weight with a large gradient returns."""
    return (weight * gradient).abs() + gradient.abs() / 10

from pbt_bench.pruning import pruner


@pruner(cite="Gadhikar et al. 2023, arXiv:2210.02412 (balanced)", scope="equal")
def random_equal(uniform):
    """u ~ U(0, 1) within layers that keep the same number of weights."""
    return uniform

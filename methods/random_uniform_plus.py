from pbt_bench.pruning import pruner


@pruner(cite="Gale et al. 2019, arXiv:1902.09574 (Uniform+)", scope="uniform_plus")
def random_uniform_plus(uniform):
    """u ~ U(0, 1) within layers of the same density, except a dense first and a last of at least 20%."""
    return uniform

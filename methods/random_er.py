from pbt_bench.pruning import pruner


@pruner(cite="Mocanu et al. 2018, arXiv:1707.04780 (Erdős-Rényi)", scope="er")
def random_er(uniform):
    """u ~ U(0, 1) within layers whose densities follow the Erdős-Rényi rule, without kernel sizes."""
    return uniform

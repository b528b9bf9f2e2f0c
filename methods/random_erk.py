from pbt_bench.pruning import pruner


@pruner(cite="Evci et al. 2020, arXiv:1911.11134, Sec. 3 (Erdős-Rényi-Kernel)", scope="erk")
def random_erk(uniform):
    """u ~ U(0, 1) within layers whose densities follow the ERK rule."""
    return uniform

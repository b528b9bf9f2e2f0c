from pbt_bench.pruning import pruner


@pruner(cite="Liu et al. 2022, arXiv:2202.02643, Sec. 3 (uniform: the same sparsity in every layer)", scope="layer")
def random_uniform(uniform):
    """u ~ U(0, 1) with the same density in every layer."""
    return uniform

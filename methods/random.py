from pbt_bench.pruning import pruner


@pruner(cite="Frankle et al. 2021, arXiv:2009.08576, Sec. 3")
def random(uniform):
    """u ~ U(0, 1): every set of weights is equally likely."""
    return uniform

from pbt_bench.pruning import pruner


@pruner(cite="Han et al. 2015, arXiv:1506.02626; at initialization: Frankle et al. 2021, arXiv:2009.08576, Sec. 3")
def magnitude(weight):
    """|θ|: the magnitude of the weight."""
    return weight.abs()

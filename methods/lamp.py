from pbt_bench.pruning import pruner


@pruner(cite="Lee et al. 2021, arXiv:2010.07611 (LAMP)")
def lamp(weight, larger_squares):
    """θ² / Σθ'² over the weights θ' of the layer that are not smaller: magnitude, comparable between layers.

    Equal to jaeho-lee/layer-adaptive-sparsity 94e53b1, tools/pruners.py: the scores of four networks in float64 differ
    by a relative error of at most 4e-12 a layer. The code keeps a rounded number of weights, and all weights that tie.
    """
    return weight.square() / larger_squares

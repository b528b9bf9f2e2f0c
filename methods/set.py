from pbt_bench.pruning import pruner


@pruner(
    cite="Mocanu et al. 2018, arXiv:1707.04780 (sparse evolutionary training)",
    scope="erk",
    mask_updates="set",
)
def set(uniform):
    """u ~ U(0, 1) at ERK densities; in training the smallest weights are dropped, and as many grow at random.

    Mask updates equal those of google-research/rigl d39fc7d, rigl/sparse_optimizers_base.py, with the same random
    numbers and without the noise that it adds to the weights: in 30 steps of SGD with momentum the masks of a two-layer
    network are identical after every step, and the final weights differ by at most 2e-7 of the largest.
    """
    return uniform

from pbt_bench.pruning import pruner


@pruner(cite="Evci et al. 2020, arXiv:1911.11134 (RigL)", scope="erk", mask_updates="rigl")
def rigl(uniform):
    """u ~ U(0, 1) at ERK densities; in training the smallest weights are dropped, and large gradients grow others.

    Mask updates equal those of google-research/rigl d39fc7d, rigl/sparse_optimizers_base.py, without the noise that it
    adds to the weights: in 30 steps of SGD with momentum the masks of a two-layer network are identical after every
    step, and the final weights differ by at most 6e-8 of the largest. An update takes the place of a step, as in the
    paper (Alg. 1); the code does not count updates as steps.
    """
    return uniform

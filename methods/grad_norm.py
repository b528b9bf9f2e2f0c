from pbt_bench.pruning import pruner


@pruner(cite="Navarrete et al. 2025, arXiv:2502.11450, Gradient Norm (GN)")
def grad_norm(gradient):
    """|g|: weights where the loss is steepest."""
    return gradient.abs()

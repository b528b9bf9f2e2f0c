from pbt_bench.pruning import pruner


@pruner(
    cite="Pham et al. 2023, NeurIPS, OpenReview xdOoCWCYaY (node-path balancing)",
    original={"channel_share": 0.01, "kernel_share": 1.0},
)
def npb(node_path_mask):
    """The mask of the most used channels, paths and kernels in every layer, at the densities of ERK; needs no data.

    Each layer attains the optimum that cvxpy finds for the integer programme of pvh1602/NPB 090830c, Pruners/utils.py,
    in nine layers, to a relative error of 1e-6. The code solves large layers in chunks of 16 or 32
    outputs, and at the end moves the weights that are on no path into the largest kernels; both are left out here, so
    0.85% of the weights of a small residual network at sparsity 0.95 are kept but on no path (`random_erk`: 0.09%).
    """
    return node_path_mask

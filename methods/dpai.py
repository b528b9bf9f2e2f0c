from pbt_bench.pruning import pruner


@pruner(
    cite="Nguyen et al. 2025, ICLR (DPaI)",
    scope="erk",
    original={
        "score_steps": 3000,
        "score_learning_rate": 0.005,
        "node_kernel_share": 0.99,
        "kernel_share": 0.5,
    },
)
def dpai(node_path_score):
    """|s|: scores trained without data for many paths, channels and kernels, straight through the mask of the highest.

    Equal to QuanNguyen-Tri/DPaI 137c555, npb.py: trained scores of two networks in float64 differ by a relative error
    of at most 1e-12 after 25 steps, and the masks of three networks are equal. The code prunes int(s·n) of the n
    weights of a layer, s its sparsity in ERK; here the total is exact. 500 steps are the default of main.py, 3000 those
    of its experiment.
    """
    return node_path_score

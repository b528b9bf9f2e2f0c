from pbt_bench.pruning import pruner


@pruner(
    cite="Theis et al. 2018, arXiv:1801.05787, Eq. 6; at initialization: Navarrete et al. 2025, arXiv:2502.11450",
    original={
        "samples_per_class": "all",
        "fisher_batch_size": 1,
        "augment": True,
        "prune_classifier": False,
        "batchnorm": "running",
    },
)
def fisher_pruning(weight, fisher_diagonal):
    """θ²·F/2: the second-order change of the loss at a minimum, F instead of the Hessian (Optimal Brain Damage)."""
    return weight.square() * fisher_diagonal / 2

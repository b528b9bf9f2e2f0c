from pbt_bench.pruning import pruner


@pruner(
    cite="Navarrete et al. 2025, arXiv:2502.11450, Fisher Diagonal (FD)",
    original={
        "samples_per_class": "all",
        "fisher_batch_size": 1,
        "augment": True,
        "prune_classifier": False,
        "batchnorm": "running",
    },
)
def fisher_diagonal(fisher_diagonal):
    """F: the empirical Fisher diagonal itself."""
    return fisher_diagonal

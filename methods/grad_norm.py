from pbt_bench.pruning import pruner


@pruner(
    cite="Navarrete et al. 2025, arXiv:2502.11450, Gradient Norm (GN)",
    original={
        "samples_per_class": "all",
        "fisher_batch_size": 1,
        "augment": True,
        "prune_classifier": False,
        "batchnorm": "running",
    },
)
def grad_norm(gradient):
    """|g|: weights where the loss is steepest."""
    return gradient.abs()

from pbt_bench.pruning import pruner


@pruner(
    cite="Navarrete et al. 2025, arXiv:2502.11450, Fisher-Taylor Sensitivity",
    original={
        "samples_per_class": "all",
        "fisher_batch_size": 1,
        "augment": True,
        "prune_classifier": False,
        "batchnorm": "running",
    },
)
def fts(weight, gradient, fisher_diagonal):
    """|θ·g + θ²·F/2|: the second-order change of the loss, with the empirical Fisher diagonal F."""
    return (weight * gradient + weight.square() * fisher_diagonal / 2).abs()

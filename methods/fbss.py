from pbt_bench.pruning import pruner


@pruner(
    cite="Navarrete et al. 2025, arXiv:2502.11450, Fisher Brain Surgeon Sensitivity (FBSS)",
    original={
        "samples_per_class": "all",
        "fisher_batch_size": 1,
        "augment": True,
        "prune_classifier": False,
        "batchnorm": "running",
    },
)
def fbss(weight, gradient, fisher_diagonal):
    """(θ - g/F)²·F/2 = θ²F/2 - θg + g²/(2F): the change of the loss when the weight is removed and all others adapt.

    Where F = 0, the loss of no sample depends on the weight, so g = 0 too. With damping λ > 0, the last term is
    g²/(2(F + λ)) = 0. Its limit for λ → 0 is 0, and therefore the score is 0.
    """
    squared = gradient.square() / (2 * fisher_diagonal)
    return weight.square() * fisher_diagonal / 2 - weight * gradient + squared.where(fisher_diagonal > 0, 0)

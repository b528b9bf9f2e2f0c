from pbt_bench.pruning import pruner

CITE = "LeCun et al. 1989, Optimal Brain Damage; Navarrete et al., second version of arXiv:2502.11450 (CPAL 2026)"


@pruner(cite=CITE, aliases=("obd",), original={"probes": 10, "samples_per_class": 10, "batchnorm": "calibrated"})
def hutchinson_pruning(weight, hessian_diagonal):
    """|θ²·h/2|: the second-order change of the loss at a minimum, h the Hessian diagonal."""
    return (weight.square() * hessian_diagonal / 2).abs()

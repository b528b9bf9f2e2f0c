from pbt_bench.pruning import pruner

CITE = "Navarrete et al., second version of arXiv:2502.11450 (CPAL 2026), Hutchinson-Taylor Sensitivity"


@pruner(
    cite=CITE,
    aliases=("hutchinson_taylor",),
    original={
        "samples_per_class": 10,
        "batch_size": 1,
        "augment": True,
        "prune_classifier": False,
        "batchnorm": "running",
        "loss_temperature": 200.0,
        "probes": 10,
        "probes_per_batch": True,
    },
)
def hts(weight, gradient, hessian_diagonal):
    """|θ·g + θ²·h/2|: the second-order change of the loss, with the Hessian diagonal h."""
    return (weight * gradient + weight.square() * hessian_diagonal / 2).abs()

from pbt_bench.pruning import pruner

CITE = "LeCun et al. 1989, Optimal Brain Damage; Navarrete et al., second version of arXiv:2502.11450 (CPAL 2026)"


@pruner(
    cite=CITE,
    aliases=("obd",),
    original={
        "samples_per_class": 10,
        "batch_size": 1,
        "augment": True,
        "prune_classifier": False,
        "batchnorm": "running",
        "loss_temperature": 200.0,
        "probes": 10,
        "probes_per_batch": True,
        "signed": True,
    },
)
def hutchinson_pruning(weight, hessian_diagonal, *, signed=False):
    """|θ²·h/2|, or θ²·h/2 if `signed`: the second-order change of the loss at a minimum; h is the Hessian diagonal."""
    change = weight.square() * hessian_diagonal / 2
    return change if signed else change.abs()

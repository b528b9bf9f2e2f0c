from pbt_bench.pruning import pruner

CITE = "Navarrete et al., second version of arXiv:2502.11450 (CPAL 2026)"


@pruner(
    cite=f"{CITE}, Hutchinson Diagonal",
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
def hutchinson_diagonal(hessian_diagonal, *, signed=False):
    """|h|, or h if `signed`, with the Hessian diagonal h (Hutchinson's estimate, or exact: the option `curvature`)."""
    return hessian_diagonal if signed else hessian_diagonal.abs()

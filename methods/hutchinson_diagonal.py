from pbt_bench.pruning import pruner

CITE = "Navarrete et al., second version of arXiv:2502.11450 (CPAL 2026)"


@pruner(
    cite=f"{CITE}, Hutchinson Diagonal", original={"probes": 10, "samples_per_class": 10, "batchnorm": "calibrated"}
)
def hutchinson_diagonal(hessian_diagonal):
    """|h|, h the Hessian diagonal (Hutchinson's estimate, or exact: scoring.curvature)."""
    return hessian_diagonal.abs()

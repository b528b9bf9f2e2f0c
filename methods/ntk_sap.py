from pbt_bench.pruning import pruner


@pruner(
    cite="Wang et al. 2023, arXiv:2304.02840, Eq. 8 and Alg. 1",
    rounds=20,
    revision=2,
    original={"samples_per_class": 10, "batch_size": 256, "perturbations": 1, "perturbation_scale": 0.01},
    original_on={"cifar10": {"perturbations": 5}},
)
def ntk_sap(ntk_sensitivity):
    """|∂/∂m E‖f(z; θ⊙m) - f(z; (θ+Δ)⊙m)‖²|: the influence of the weight on the spectrum of the NTK; needs no data."""
    return ntk_sensitivity.abs()

from pbt_bench.pruning import pruner


@pruner(
    cite="Iurada et al. 2024, arXiv:2406.01820 (Path eXclusion)",
    rounds=100,
    original={"batch_size": 128, "augment": True, "batchnorm": "running"},
    original_on={"tiny-imagenet": {"batch_size": 256}},
)
def px(weight, path_kernel):
    """θ²·|∂Σz₁z₂/∂θ²|: the share of the weight in a bound of the trace of the NTK, in 100 rounds.

    Equal to iurada/px-ntk-pruning ed6c40e, lib/pruners.py: scores of three networks in float64 to a relative error of
    1e-12, masks of 7 rounds exactly. The code leaves the classifier as it is, so its derivative is that by θ.
    """
    return weight.square() * path_kernel.abs()

from pbt_bench.pruning import pruner


@pruner(
    cite="Lee et al. 2019, arXiv:1810.02340, Eq. 5 and 6",
    original={"samples_per_class": "all", "most_samples": 128, "batch_size": 128, "batchnorm": "running"},
)
def snip(weight, gradient):
    """|θ·g|: the first-order change of the loss when the weight is removed."""
    return (weight * gradient).abs()

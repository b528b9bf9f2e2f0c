from pbt_bench.pruning import pruner


@pruner(
    cite="de Jorge et al. 2021, arXiv:2006.09081, Sec. 4 (Iterative SNIP)",
    rounds=60,
    aliases=("iter_snip",),
    original={
        "samples_per_class": "all",
        "most_samples": 128,
        "batch_size": 128,
        "new_batches": True,
        "augment": True,
        "batchnorm": "batch",
    },
    original_on={
        "cifar100": {"most_samples": 10 * 128},
        "tiny-imagenet": {"most_samples": 20 * 128},
        "imagenet": {"most_samples": 40 * 256, "batch_size": 256},
    },
)
def iterative_snip(weight, gradient):
    """|θ·g| of the pruned network, in rounds; pruned weights stay pruned."""
    return (weight * gradient).abs()

from pbt_bench.pruning import pruner


@pruner(
    cite="de Jorge et al. 2021, arXiv:2006.09081, Eq. 6 and Alg. 1 (FORCE)",
    rounds=60,
    regrow=True,
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
def force(weight, gradient):
    """|θ·g| with g of the pruned network and θ of the dense network; pruned weights may return."""
    return (weight * gradient).abs()

from pbt_bench.pruning import pruner


@pruner(
    cite="Verdenius et al. 2020, arXiv:2006.00896 (SNAP)",
    original={
        "samples_per_class": "all",
        "most_samples": 5 * 512,
        "batch_size": 512,
        "augment": True,
        "batchnorm": "running",
    },
)
def snip_structured(unit_sensitivity):
    """|∂L/∂c| of a gate c = 1 on each output channel, in equal parts for its weights: use with pattern = "channel".

    The sums over channels equal StijnVerdenius/SNIP-it fec11fc, criterions/SNAP.py, times the loss by which it divides
    all scores, to a relative error of 1e-12 on three networks in float64. The code keeps a share of the channels, one
    of every layer at least, and all of the first and the last layer; the pattern prunes to the sparsity of the weights.
    The code takes logits for log-probabilities (as FORCE, finding F10); log_softmax was added for the comparison.
    """
    return unit_sensitivity

from pbt_bench.pruning import pruner


@pruner(cite="Zhang et al. 2024, ICLR, OpenReview Tr0lPx9woF (RIA)")
def ria(relative_weight, input_norm, *, input_power=0.5):
    """(|θ|/Σ|row| + |θ|/Σ|column|)·‖x‖₂^a: the share in the weights of its output and of its input, times the input.

    Equal to biomedical-cybernetics/Relative-importance-and-activation-pruning 7bc55b0, lib/prune.py lines 235 to 239,
    for linear layers; its a is 0.5. Groups of weights, pruned inputs and convolutions differ as for `wanda`, and
    scope = "layer" is the closest here too.
    """
    return relative_weight * input_norm**input_power

from pbt_bench.pruning import pruner


@pruner(cite="Sun et al. 2024, arXiv:2306.11695, Eq. 1")
def wanda(weight, input_norm):
    """|θ|·‖x‖₂: the weight times the norm of its input over the scoring data.

    Equal to locuslab/wanda 8e8fc87, lib/layerwrapper.py and lib/prune.py, for linear layers. Convolutions, which the
    code does not prune, are linear maps of patches. The code removes the same share of the weights of every output and
    prunes block by block, each on inputs from blocks that are pruned already; here the inputs are those of the dense
    network, and the scope of the run decides which weights are compared. Use scope = "layer", the closest: norms of
    different layers are not comparable, and with scope = "global" VGG-8 on digits is disconnected at sparsity 0.9.
    """
    return weight.abs() * input_norm

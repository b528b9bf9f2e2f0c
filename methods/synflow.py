from pbt_bench.pruning import pruner


@pruner(cite="Tanaka et al. 2020, arXiv:2006.05467, Eq. 3 and Alg. 1", rounds=100, revision=2)
def synflow(weight, synaptic_flow):
    """|θ|·∂R/∂|θ| with R = 1ᵀ(∏|θ|)1, in 100 rounds; needs no data."""
    return weight.abs() * synaptic_flow

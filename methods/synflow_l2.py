from pbt_bench.pruning import pruner

CITE = (
    "Gebhart et al. 2021, arXiv:2101.10552 (SynFlow-L2); the score is that of Patil and Dovrolis 2021, arXiv:2010.11354"
)


@pruner(cite=CITE, rounds=100, revision=2)
def synflow_l2(weight, squared_synaptic_flow):
    """|θ|·∂R/∂θ² with R = 1ᵀ(∏θ²)1, in 100 rounds; needs no data."""
    return weight.abs() * squared_synaptic_flow

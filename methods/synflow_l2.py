from pbt_bench.pruning import pruner

CITE = "Gebhart et al. 2021, arXiv:2102.01140; Patil and Dovrolis 2021, arXiv:2010.11354, Sec. 3 (SynFlow-L2)"


@pruner(cite=CITE, rounds=100, elementwise=True)
def synflow_l2(weight, squared_synaptic_flow):
    """θ²·∂R/∂θ² with R = 1ᵀ(∏θ²)1, the path kernel's trace, in 100 rounds; needs no data."""
    return weight.square() * squared_synaptic_flow

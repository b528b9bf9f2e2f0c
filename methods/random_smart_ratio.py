from pbt_bench.pruning import pruner


@pruner(cite="Su et al. 2020, arXiv:2009.11094 (random tickets of ResNet)", scope="smart_ratio")
def random_smart_ratio(uniform):
    """u ~ U(0, 1) within layers whose densities fall as k² + k, k counted from the output."""
    return uniform

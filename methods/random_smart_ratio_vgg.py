from pbt_bench.pruning import pruner


@pruner(cite="Su et al. 2020, arXiv:2009.11094 (random tickets of VGG)", scope="smart_ratio_vgg")
def random_smart_ratio_vgg(uniform):
    """u ~ U(0, 1) within layers whose densities fall as (k² + k) / i², k from the output, i from the input."""
    return uniform

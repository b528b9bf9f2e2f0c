from pbt_bench.pruning import pruner


@pruner(cite="Vysogorets and Kempe 2023, arXiv:2107.02306 (Ideal Gas Quotas)", scope="igq")
def random_igq(uniform):
    """u ~ U(0, 1) within layers whose densities are 1 / (F·n + 1), n the number of their weights."""
    return uniform

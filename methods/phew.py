from pbt_bench.pruning import pruner


@pruner(cite="Patil and Dovrolis 2021, arXiv:2010.11354, Sec. 4")
def phew(path_walks):
    """-(number of the first random walk over |θ| that visits the weight): the paths of the first walks are kept."""
    return path_walks

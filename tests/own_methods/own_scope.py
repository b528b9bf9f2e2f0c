from math import prod

from pbt_bench.pruning import scope


@scope(cite="made for the tests")
def root(shapes, density):
    """Densities proportional to n^(-1/2), n the number of weights of the layer."""
    return {name: prod(shape) ** -0.5 for name, shape in shapes.items()}

from pbt_bench.errors import RequestError
from pbt_bench.pruning import pruner, scope


@scope(cite="made for the tests")
def strong_ends(shapes, density):
    """Three times the density in the first and the last layer; not for densities below 0.001."""
    if density < 0.001:
        raise RequestError(f"scope = 'strong_ends' cannot have density {density:g}")
    names = list(shapes)
    return {name: 3.0 if name in (names[0], names[-1]) else 1.0 for name in names}


@pruner(cite="made for the tests", scope="strong_ends")
def random_strong_ends(uniform):
    """u ~ U(0, 1), with more weights in the first and the last layer."""
    return uniform

from pbt_bench.pruning import pruner


@pruner(cite="made for the tests", original={"power": 0.25, "batchnorm": "batch"})
def balanced(weight, gradient, *, power=0.5, signed=False):
    """|θ|^p·|g|^(1 - p), times the sign of θ·g if `signed`."""
    score = weight.abs() ** power * gradient.abs() ** (1 - power)
    return score * (weight * gradient).sign() if signed else score

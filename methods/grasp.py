from pbt_bench.pruning import pruner


@pruner(
    cite="Wang et al. 2020, arXiv:2002.07376, Eq. 8 and Alg. 1",
    original={
        "samples_per_class": 10,
        "order": "class",
        "batches": 2,
        "augment": True,
        "batchnorm": "batch",
        "temperature": 200.0,
    },
    original_on={"tiny-imagenet": {"order": "cycle", "batches": 20}},
)
def grasp(weight, hessian_gradient):
    """θ·Hg: weights whose removal reduces the gradient flow most (largest θ·Hg) are kept."""
    return weight * hessian_gradient

from pbt_bench.pruning import pruner


@pruner(
    cite="Rachwan et al. 2022, arXiv:2206.10451 (CroP)",
    original={
        "samples_per_class": "all",
        "most_samples": 5 * 512,
        "batch_size": 512,
        "augment": True,
        "batchnorm": "running",
        "temperature": 1.0,
    },
)
def grad_flow(weight, hessian_gradient):
    """|θ·Hg|: the change of the gradient flow, in either direction, when the weight is removed.

    Equal to johnrachwan123/Early-Cropression-via-Gradient-Flow-Preservation 6fb1176, criterions/CroP.py, up to the
    square of the number of batches, whose mean gradients it adds. The code does not divide logits by a temperature.
    """
    return (weight * hessian_gradient).abs()

from pbt_bench.pruning import pruner

ORIGINAL = {
    "samples_per_class": "all",
    "most_samples": 128,
    "batch_size": 128,
    "augment": True,
    "inner_steps": 3,
    "inner_learning_rate": 0.1,
    "inner_momentum": 0.0,
    "batchnorm": "batch",
}


@pruner(cite="Alizadeh et al. 2022, arXiv:2202.08132, Eq. 6 and Alg. 1", original=ORIGINAL)
def prospr(meta_gradient):
    """|∂L(θ_M(m))/∂m|: the effect of the weight on the loss after M steps of training, through these steps."""
    return meta_gradient.abs()

from pbt_bench.pruning import pruner


@pruner(
    cite="Ramanujan et al. 2020, arXiv:1911.13299 (edge-popup)",
    scope="layer",
    original={
        "samples_per_class": "all",
        "batch_size": 128,
        "augment": True,
        "batchnorm": "batch",
        "score_epochs": 100,
        "score_learning_rate": 0.1,
        "score_momentum": 0.9,
        "score_weight_decay": 1e-4,
    },
)
def edge_popup(popup_score):
    """|s|: scores trained by SGD, straight through the mask of the highest |s| of each layer, with fixed weights.

    Equal to the straight-through code of allenai/hidden-networks dddf2d0, simple_mnist_example.py: trained scores of
    three networks in float64 differ by a relative error of at most 1e-12 after 10 epochs. The authors draw weights of
    one magnitude and leave out the parameters of normalisation; here the weights are those of the run.
    """
    return popup_score

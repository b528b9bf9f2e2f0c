from pbt_bench.pruning import pruner


@pruner(cite="Zhu and Gupta 2017, arXiv:1710.01878 (gradual magnitude pruning)", mask_updates="gmp")
def gmp(weight):
    """|θ| during training: the network starts dense, and its sparsity rises to that of the run along a cubic curve.

    The sparsity of every step is that of google-research/jaxpruner f133ee5, PolynomialSchedule, within 1e-6 (float32).
    The defaults of its options are those of google-research/rigl d39fc7d, cifar_resnet/resnet_train_eval.py, rounded.
    """
    return weight.abs()

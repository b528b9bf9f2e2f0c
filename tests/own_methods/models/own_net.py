from torch import nn

from pbt_bench.models import model


@model(cite="made for the tests")
def two_convolutions(channels, classes):
    """Two convolutions and a classifier."""
    return nn.Sequential(
        nn.Conv2d(channels, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, classes),
    )

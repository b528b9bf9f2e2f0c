"""Conv-6 with batch normalisation (Frankle and Carbin 2019, arXiv:1803.03635, Fig. 2; Cunegatti et al. 2024)."""

from __future__ import annotations

from torch import Tensor, nn

from pbt_bench.errors import RequestError


class Conv6(nn.Module):
    """Three pairs of 3x3 convolutions of 64, 128 and 256 channels, two hidden linear layers of 256 units, classifier.

    2x2 maximum pooling follows each pair. All layers have biases, and all but the classifier have batch normalisation
    and ReLU, as in eliacunegatti/mge-snn, models/models.py. That code keeps the biases at their initial value, zero.
    """

    def __init__(self, channels: int, classes: int, size: int) -> None:
        super().__init__()
        if size < 8:
            raise RequestError(f"model 'conv6' needs images of 8x8 pixels or more, not {size}x{size}")
        layers: list[nn.Module] = []
        for width in (64, 128, 256):
            for inputs in (channels, width):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            channels = width
        self.features = nn.Sequential(*layers)
        hidden: list[nn.Module] = []
        for inputs in (256 * (size // 8) ** 2, 256):
            hidden += [nn.Linear(inputs, 256), nn.BatchNorm1d(256), nn.ReLU()]
        self.hidden = nn.Sequential(*hidden)
        self.classifier = nn.Linear(256, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, channels, size, size] to logits [n, classes]."""
        logits: Tensor = self.classifier(self.hidden(self.features(x).flatten(1)))
        return logits

"""Vision transformers for small images (Dosovitskiy et al. 2021, arXiv:2010.11929; DeiT-Ti: arXiv:2012.12877).

Every matrix is the weight of an `nn.Linear`, and therefore prunable. Attention is computed from matrix products and
softmax, because fused kernels lack the second derivatives and the float64 support that scoring needs.
"""

from __future__ import annotations

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pbt_bench.errors import RequestError


class Attention(nn.Module):
    """softmax(q kᵀ / √(width / heads)) v in every head, then a linear layer (Vaswani et al. 2017, Eq. 1)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, tokens, width] to [n, tokens, width]."""
        n, tokens, width = x.shape
        each = width // self.heads
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, each).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-2, -1) / sqrt(each), dim=-1)
        mixed: Tensor = self.output((weights @ v).transpose(1, 2).reshape(n, tokens, width))
        return mixed


class Block(nn.Module):
    """Attention, then a perceptron of 4 x width hidden units with GELU; both normalise their input and are residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.hidden = nn.Linear(width, 4 * width)
        self.output = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, tokens, width] to [n, tokens, width]."""
        x = x + self.attention(self.norm1(x))
        x = x + self.output(F.gelu(self.hidden(self.norm2(x))))
        return x


class VisionTransformer(nn.Module):
    """Patches as tokens, a class token, learned positions, blocks, and a classifier of the class token.

    Positions and class token are initially normal with standard deviation 0.02. They are never prunable.
    Raises RequestError if `size` is not a multiple of `patch`.
    """

    def __init__(self, channels: int, classes: int, size: int, patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        if size % patch:
            raise RequestError(f"a vision transformer of {patch}x{patch} patches cannot cut up {size}x{size} images")
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, channels, size, size] to logits [n, classes]."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.token.expand(len(tokens), -1, -1), tokens), dim=1)
        tokens = self.blocks(tokens + self.positions)
        logits: Tensor = self.classifier(self.norm(tokens[:, 0]))
        return logits


def vit_tiny(channels: int, classes: int, size: int, patch: int = 4) -> VisionTransformer:
    """Build DeiT-Ti (width 192, 12 blocks, 3 heads) with 4x4 patches: 5.4M parameters for 32x32 images."""
    return VisionTransformer(channels, classes, size, patch, width=192, depth=12, heads=3)

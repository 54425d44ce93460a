"""Transformers on images: patches as tokens, their positions, attention and perceptron over tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mezzotint.configs import DiTConfig, UViTConfig
from mezzotint.errors import ConfigError
from mezzotint.nn.attention import head_count, merge_heads, split_qkv


def grid_of(height: int, width: int, patch: int) -> tuple[int, int]:
    """Rows and columns of patches in an image.

    Raises:
        ConfigError: The patches do not tile the image.

    Example:
        >>> grid_of(32, 64, 2)
        (16, 32)
    """
    if min(height, width, patch) < 1 or height % patch or width % patch:
        raise ConfigError(f"patches of side {patch} do not tile {height}x{width}; use sizes that are multiples of the patch")
    return height // patch, width // patch


def patchify(x: Tensor, patch: int) -> Tensor:
    """Cuts images ``[b, c, h, w]`` into patches ``[b, n, patch * patch * c]``, row by row; in each, the channel changes fastest.

    Raises:
        ConfigError: The patches do not tile the image.

    Source: Dosovitskiy et al. 2021, section 3.1.
    """
    rows, columns = grid_of(x.shape[2], x.shape[3], patch)
    x = x.unflatten(3, (columns, patch)).unflatten(2, (rows, patch))  # b c rows p columns p
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(tokens: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of ``patchify``.

    Args:
        tokens: ``[b, rows * columns, patch * patch * c]``.
        patch: Side of a patch.
        grid: Rows and columns of patches.
    """
    x = tokens.unflatten(2, (patch, patch, -1)).unflatten(1, grid)  # b rows columns p p c
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens ``[b, rows * columns, c]`` as a feature map ``[b, c, rows, columns]``."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def grid_positions(width: int, grid: tuple[int, int]) -> Tensor:
    """Sines and cosines of each patch's place.

    Args:
        width: Length of an embedding; a multiple of 4.
        grid: Rows and columns of patches.

    Returns:
        ``[rows * columns, width]`` float64 in [-1, 1]: sines, then cosines of the column in the first half, of the row in the second.

    Raises:
        ConfigError: The width is no multiple of 4.

    Source: Dosovitskiy et al. 2021, appendix D.4 (two-dimensional); Vaswani et al. 2017, section 3.5 (frequencies).

    Example:
        >>> grid_positions(4, (2, 2)).round(decimals=2)[1].tolist()
        [0.84, 0.54, 0.0, 1.0]
    """
    if width % 4 or width < 4:
        raise ConfigError(f"width={width} is no multiple of 4, which positions in two dimensions need")
    frequencies = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))

    def waves(length: int) -> Tensor:
        angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    rows, columns = grid
    return torch.cat([waves(columns).repeat(rows, 1), waves(rows).repeat_interleave(columns, dim=0)], dim=1)


class TokenAttention(nn.Module):
    """Attention of every token to every token.

    Args:
        width: Channels of a token.
        heads: Number of heads; divides the width.
        bias: Whether the projection to q, k, v has a bias.

    Raises:
        ConfigError: The heads do not divide the width.

    Source: Vaswani et al. 2017, equation 1.
    """

    def __init__(self, width: int, heads: int, *, bias: bool = True):
        super().__init__()
        self.heads = head_count(width, heads, None)
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens ``[b, n, width]`` to the same shape."""
        q, k, v = split_qkv(self.qkv(x), self.heads, "new")
        return self.out(merge_heads(F.scaled_dot_product_attention(q, k, v)))


class Perceptron(nn.Module):
    """Two linear layers.

    Args:
        width: Channels, in and out.
        hidden: Channels between.
        activation: What stands between them.
    """

    def __init__(self, width: int, hidden: int, activation: nn.Module):
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.activation = activation
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[..., width]`` to the same shape."""
        return self.out(self.activation(self.hidden(x)))


def check_transformer(config: DiTConfig | UViTConfig) -> None:
    """Checks what all transformers on images need.

    Raises:
        ConfigError: Settings that cannot be built.
    """
    if config.in_channels < 1 or config.out_channels < 1:
        raise ConfigError(
            f"in_channels={config.in_channels} and out_channels={config.out_channels}: a network needs at least 1; "
            "only recipes fill in 0 from the data"
        )
    if config.num_classes is not None and config.num_classes < 1:
        raise ConfigError(f"num_classes={config.num_classes} must be at least 1; None makes a network without labels")
    if config.depth < 1 or config.mlp_ratio <= 0:
        raise ConfigError(f"depth={config.depth} and mlp_ratio={config.mlp_ratio:g}: give at least 1 block, and a positive ratio")

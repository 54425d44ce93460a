"""DiT: a transformer on patches that is told of time and label by adaptive normalisation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mezzotint.configs import DiTConfig
from mezzotint.nn.backbone import Backbone
from mezzotint.nn.embeddings import TimeEmbedding
from mezzotint.nn.init import zeroed
from mezzotint.nn.precision import full_precision
from mezzotint.nn.tokens import Perceptron, TokenAttention, check_transformer, grid_of, grid_positions, patchify, to_map, unpatchify
from mezzotint.registry import register
from mezzotint.types import Cond

EPS = 1e-6
WAVES = 256


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer normalisation of tokens ``[b, n, c]`` without weights of its own, then a scale and a shift for each image ``[b, c]``."""
    return torch.addcmul(shift[:, None], F.layer_norm(x, x.shape[-1:], eps=EPS).to(shift.dtype), 1 + scale[:, None])


class DiTBlock(nn.Module):
    """Attention and a perceptron; the condition shifts and scales what goes in, and scales what comes out (adaLN-Zero).

    Args:
        width: Channels of a token.
        heads: Number of attention heads.
        hidden: Channels inside the perceptron.

    Source: Peebles & Xie 2023, section 3.2.
    """

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.modulation = zeroed(nn.Linear(width, 6 * width))
        self.attention = TokenAttention(width, heads)
        self.mlp = Perceptron(width, hidden, nn.GELU(approximate="tanh"))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Maps tokens ``[b, n, width]`` and the embedding after its SiLU ``[b, width]`` to tokens."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(told).chunk(6, dim=1)
        x = torch.addcmul(x, gate1[:, None], self.attention(modulated(x, shift1, scale1)))
        return torch.addcmul(x, gate2[:, None], self.mlp(modulated(x, shift2, scale2)))


class DiTHead(nn.Module):
    """Modulated normalisation and a linear layer, both zero at the start, never in reduced precision under autocast.

    Args:
        width: Channels of a token.
        out: Numbers that each token becomes.
    """

    def __init__(self, width: int, out: int):
        super().__init__()
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.linear = zeroed(nn.Linear(width, out))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Maps tokens ``[b, n, width]`` to ``[b, n, out]``."""
        with full_precision(x.device):
            shift, scale = self.modulation(told.to(self.linear.weight.dtype)).chunk(2, dim=1)
            return self.linear(modulated(x, shift, scale))


@register("network", "dit")
class DiT(Backbone):
    """A diffusion transformer. Positions are fixed, so that it takes images of any size that its patches tile.

    Args:
        config: The settings, with channels and size filled in.

    Raises:
        ConfigError: Settings that cannot be built.

    Source: Peebles & Xie 2023, section 3.2 and figure 3; initial weights as in its section 3.2 and Goyal et al. 2017.
    """

    def __init__(self, config: DiTConfig):
        super().__init__()
        check_transformer(config)
        self.config = config
        self.checkpointing = config.checkpointing
        self.out_channels = config.out_channels
        self.accepts = frozenset() if config.num_classes is None else frozenset({"label"})
        width = config.width
        self.positions: Tensor
        self.register_buffer("positions", grid_positions(width, grid_of(*config.image_size, config.patch)).float()[None])
        self.stem = nn.Linear(config.patch**2 * config.in_channels, width)
        self.time_embed = TimeEmbedding(WAVES, width)
        self.label_embed = None if config.num_classes is None else nn.Embedding(config.num_classes, width)
        hidden = int(width * config.mlp_ratio)
        self.blocks = nn.ModuleList(DiTBlock(width, config.heads, hidden) for _ in range(config.depth))
        self.head = DiTHead(width, config.patch**2 * config.out_channels)
        self.taps = ("stem", *(f"blocks.{i}" for i in range(config.depth)))
        self._start()

    def _start(self) -> None:
        for block in self.blocks:
            assert isinstance(block, DiTBlock)
            for layer in (block.attention.qkv, block.attention.out, block.mlp.hidden, block.mlp.out):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.stem.weight)
        nn.init.zeros_(self.stem.bias)
        for layer in (self.time_embed.hidden, self.time_embed.out):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        if self.label_embed is not None:
            nn.init.normal_(self.label_embed.weight, std=0.02)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        if grid == grid_of(*self.config.image_size, self.config.patch):
            return self.positions
        return grid_positions(self.config.width, grid).to(self.positions)

    def _walk(self, x: Tensor, time_input: Tensor, cond: Cond) -> Iterator[tuple[str, Tensor]]:
        self._check(cond)
        patch = self.config.patch
        grid = grid_of(x.shape[2], x.shape[3], patch)
        h = self.stem(patchify(x.to(self.stem.weight.dtype), patch)) + self._positions(grid)
        yield "stem", to_map(h, grid)
        told = self.time_embed(time_input)
        if self.label_embed is not None:
            told = told + self.label_embed(cond["label"])
        told = F.silu(told)
        for i, block in enumerate(self.blocks):
            h = self._run(block, h, told)
            yield f"blocks.{i}", to_map(h, grid)
        yield "output", unpatchify(self.head(h, told), patch, grid)

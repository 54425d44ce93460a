"""U-ViT: a transformer to which everything is a token, with the long skip connections of a U-Net."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mezzotint.configs import UViTConfig
from mezzotint.errors import ConfigError
from mezzotint.nn.backbone import Backbone
from mezzotint.nn.embeddings import sinusoidal
from mezzotint.nn.precision import full_precision
from mezzotint.nn.tokens import Perceptron, TokenAttention, check_transformer, grid_of, patchify, to_map, unpatchify
from mezzotint.registry import register
from mezzotint.types import Cond


class UViTBlock(nn.Module):
    """Attention and a perceptron, each after a normalisation, both added to the tokens.

    Args:
        config: The settings.
        joins: Whether the block takes a long skip connection in by a linear layer, before anything else.

    Source: Bao et al. 2023, section 3.1 and figure 1.
    """

    def __init__(self, config: UViTConfig, *, joins: bool = False):
        super().__init__()
        width = config.width
        self.join = nn.Linear(2 * width, width) if joins else None
        self.norm1 = nn.LayerNorm(width)
        self.attention = TokenAttention(width, config.heads, bias=config.qkv_bias)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Perceptron(width, int(width * config.mlp_ratio), nn.GELU())

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Maps tokens ``[b, n, width]``, and perhaps those of an earlier block, to tokens."""
        if skip is not None:
            x = x + skip if self.join is None else self.join(torch.cat([x, skip], dim=2))
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class UViTHead(nn.Module):
    """Normalisation, a linear layer to pixels and perhaps a convolution, never in reduced precision under autocast."""

    def __init__(self, config: UViTConfig):
        super().__init__()
        self.patch = config.patch
        self.norm = nn.LayerNorm(config.width)
        self.linear = nn.Linear(config.width, config.patch**2 * config.out_channels)
        self.conv = nn.Conv2d(config.out_channels, config.out_channels, 3, padding=1) if config.conv else nn.Identity()

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Maps the tokens of the patches ``[b, n, width]`` to ``[b, out, h, w]``."""
        with full_precision(tokens.device):
            return self.conv(unpatchify(self.linear(self.norm(tokens.to(self.linear.weight.dtype))), self.patch, grid))


@register("network", "uvit")
class UViT(Backbone):
    """A transformer on the tokens of label, time, text and patches, in this order, all with learned positions.

    Args:
        config: The settings, with channels and size filled in.

    Raises:
        ConfigError: Settings that cannot be built.

    Source: Bao et al. 2023, section 3.
    """

    def __init__(self, config: UViTConfig):
        super().__init__()
        check_transformer(config)
        self.config = config
        self.checkpointing = config.checkpointing
        self.out_channels = config.out_channels
        conditions = {"label": config.num_classes is not None, "text": config.text_tokens > 0}
        self.accepts = frozenset(name for name, used in conditions.items() if used)
        width, half = config.width, config.depth // 2
        rows, columns = grid_of(*config.image_size, config.patch)
        self.extras = 1 + (config.num_classes is not None) + config.text_tokens
        self.stem = nn.Linear(config.patch**2 * config.in_channels, width)
        self.time_mlp = Perceptron(width, 4 * width, nn.SiLU()) if config.time_mlp else nn.Identity()
        self.label_embed = None if config.num_classes is None else nn.Embedding(config.num_classes, width)
        self.text_embed = nn.Linear(config.text_channels, width) if config.text_tokens else None
        self.positions = nn.Parameter(torch.zeros(1, self.extras + rows * columns, width))
        self.before = nn.ModuleList(UViTBlock(config) for _ in range(half))
        self.middle = UViTBlock(config)
        self.after = nn.ModuleList(UViTBlock(config, joins=config.skip == "concat") for _ in range(half))
        self.head = UViTHead(config)
        self.taps = ("stem", *(f"before.{i}" for i in range(half)), "middle", *(f"after.{i}" for i in range(half)))
        self._start()

    def _start(self) -> None:
        nn.init.trunc_normal_(self.positions, std=0.02)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and name != "stem":  # the stem starts as the convolution that it stands for
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _tokens(self, x: Tensor, time_input: Tensor, cond: Cond) -> Tensor:
        dtype = self.stem.weight.dtype
        with full_precision(x.device):
            time = self.time_mlp(sinusoidal(time_input, self.config.width).to(dtype))
        tokens = [time[:, None], self.stem(patchify(x.to(dtype), self.config.patch))]
        if self.text_embed is not None:
            text, shape = cond["text"], (self.config.text_tokens, self.config.text_channels)
            if text.shape[1:] != shape:
                raise ConfigError(f"the condition 'text' is {list(text.shape)}, and the network takes [b, {shape[0]}, {shape[1]}]")
            tokens.insert(1, self.text_embed(text.to(dtype)))
        if self.label_embed is not None:
            tokens.insert(0, self.label_embed(cond["label"])[:, None])
        return torch.cat([token.to(dtype) for token in tokens], dim=1)

    def _walk(self, x: Tensor, time_input: Tensor, cond: Cond) -> Iterator[tuple[str, Tensor]]:
        self._check(cond)
        grid = grid_of(x.shape[2], x.shape[3], self.config.patch)
        if x.shape[2:] != self.config.image_size:
            height, width = self.config.image_size
            raise ConfigError(f"positions were learned for {height}x{width}, got {x.shape[2]}x{x.shape[3]}; use that size")
        h = self._tokens(x, time_input, cond) + self.positions
        yield "stem", to_map(h[:, self.extras :], grid)
        skips = []
        for i, block in enumerate(self.before):
            h = self._run(block, h)
            skips.append(h)
            yield f"before.{i}", to_map(h[:, self.extras :], grid)
        h = self._run(self.middle, h)
        yield "middle", to_map(h[:, self.extras :], grid)
        for i, block in enumerate(self.after):
            skip = skips.pop()
            h = self._run(block, h) if self.config.skip == "none" else self._run(block, h, skip)
            yield f"after.{i}", to_map(h[:, self.extras :], grid)
        yield "output", self.head(h[:, self.extras :], grid)

"""The second head of SN- and NPR-DPM, on the last features of a network that was trained before."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mezzotint.configs import CovarianceConfig
from mezzotint.errors import ConfigError
from mezzotint.nn.embeddings import TimeEmbedding
from mezzotint.nn.head import Head
from mezzotint.nn.norm import GroupNorm
from mezzotint.nn.residual import ResidualBlock


class CovarianceHead(nn.Module):
    """Features and time -> the second moment of the noise at each pixel, or of its error; starts at zero.

    Args:
        config: The settings, with ``features`` filled in.
        channels: Channels of x.

    Raises:
        ConfigError: The number of features is not filled in.

    Source: Bao et al. 2022 (Estimating the optimal covariance), section 5 and appendix F.
    """

    def __init__(self, config: CovarianceConfig, channels: int):
        super().__init__()
        width = config.features
        if width < 1:
            raise ConfigError("covariance.features 0; build the head from the network that it stands on")
        self.factor = config.factor
        block = config.head == "block"
        self.time_embed = TimeEmbedding(width, 4 * width) if block else None
        self.block = ResidualBlock(width, width, 4 * width, scale_shift=True, dropout=0.0, norm=GroupNorm) if block else None
        self.head = Head(width, channels * config.factor**2)

    def forward(self, h: Tensor, time_input: Tensor) -> Tensor:
        """Maps features ``[b, features, h, w]`` and times as the network is told them ``[b]`` to ``[b, c, factor h, factor w]``."""
        if self.time_embed is not None and self.block is not None:
            h = self.block(h, F.silu(self.time_embed(time_input)))
        return F.pixel_shuffle(self.head(h), self.factor)

"""Training in the space of a codec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from mezzotint.codecs import Codec
from mezzotint.noise import Noise
from mezzotint.objectives.base import Objective
from mezzotint.types import Batch, Loss, Phase


class Encoded(Objective):
    """An objective that sees the encoded images; the codec itself is neither trained nor saved.

    Args:
        inner: The objective.
        codec: Encodes the images of each batch, anew at each step.

    Source: Rombach et al. 2022, section 3.2.
    """

    def __init__(self, inner: Objective, codec: Codec):
        super().__init__()
        self.inner = inner
        self._encode = codec.encode  # not a submodule, so that the codec's weights are not part of any state

    @property
    def phases(self) -> tuple[Phase, ...]:
        return self.inner.phases

    @property
    def models(self) -> Mapping[str, nn.Module]:
        return self.inner.models

    def forward(self, batch: Batch, *, phase: str, step: int, noise: Noise) -> Loss:
        encoded = replace(batch, images=self._encode(batch.images, noise=noise.sub("codec")))
        return self.inner(encoded, phase=phase, step=step, noise=noise)

    def update(self, t: Tensor, per_sample: Tensor, *, phase: str) -> None:
        self.inner.update(t, per_sample, phase=phase)

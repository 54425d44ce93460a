"""From images to feature vectors. A feature function takes images ``[b, c, h, w]`` in [-1, 1] and gives ``[b, d]``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from mezzotint.errors import CapabilityError

Features = Callable[[Tensor], Tensor]


def pixels(images: Tensor) -> Tensor:
    """The pixels themselves, ``[b, c h w]`` float32: fit for tiny images only."""
    return images.flatten(1).float()


class ClassifierFeatures:
    """The penultimate layer of a classifier network.

    Args:
        network: A network with the tap "pooled", such as ``mezzotint.networks.encoder.Encoder``. It is put in evaluation mode.
        time_input: What the network is told of the time: its label of the cleanest level.

    Raises:
        CapabilityError: The network has no such tap.
    """

    def __init__(self, network: nn.Module, time_input: float = 0.0):
        if "pooled" not in getattr(network, "taps", ()):
            raise CapabilityError(f"{type(network).__name__} has no tap 'pooled'; give the network of a classifier, or use pixels")
        self.network = network.eval()
        self.time_input = time_input

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features of images ``[b, c, h, w]`` in [-1, 1]: ``[b, d]`` float32."""
        time_input = torch.full((len(images),), self.time_input, device=images.device)
        return self.network.features(images, time_input, {}, ("pooled",))["pooled"].flatten(1).float()  # type: ignore[operator]


def extract(features: Features, batches: Iterable[Tensor]) -> Tensor:
    """Feature vectors of all batches, ``[n, d]`` float32 on the CPU: what precision and recall need at once."""
    return torch.cat([features(images).cpu() for images in batches])

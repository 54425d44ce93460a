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
    """The penultimate layer of a classifier.

    Args:
        classifier: A module with a method ``features(images) -> [b, ...]``. It is put in evaluation mode.

    Raises:
        CapabilityError: The module has no ``features``.
    """

    def __init__(self, classifier: nn.Module):
        if not callable(getattr(classifier, "features", None)):
            raise CapabilityError(f"{type(classifier).__name__} has no method 'features'; use a mezzotint classifier, or pixels")
        self.classifier = classifier.eval()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features of images ``[b, c, h, w]`` in [-1, 1]: ``[b, d]`` float32."""
        return self.classifier.features(images).flatten(1).float()  # type: ignore[operator]


def extract(features: Features, batches: Iterable[Tensor]) -> Tensor:
    """Feature vectors of all batches, ``[n, d]`` float32 on the CPU: what precision and recall need at once."""
    return torch.cat([features(images).cpu() for images in batches])

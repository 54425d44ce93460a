"""From images to feature vectors: what a feature network is to the metrics, and the ones that need no weights of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from mezzotint.errors import CapabilityError
from mezzotint.registry import register


class Extractor(Protocol):
    """A feature network. Those with a name are built by ``registry.build("features", NAME, DEVICE)``, such as "inception,weights=FILE".

    The figures of an image do not depend on what else is in its batch, but for rounding.

    Attributes:
        name: What it is called in a protocol.
        hash: SHA-256 of its weights, hexadecimal; None: it has none.
        resize: How images come to its size, in words, for the protocol.
        outputs: Which features it gives, of "pool" (the features of most metrics), "spatial" (those of sFID) and "logits" (of classes).
    """

    name: str
    hash: str | None
    resize: str
    outputs: frozenset[str]

    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        """Features of images.

        Args:
            images: ``[b, c, h, w]`` in [-1, 1], any size and device.

        Returns:
            Each of ``outputs`` -> ``[b, d]`` float32, on the device of the network.
        """
        ...


def pixels(images: Tensor) -> Tensor:
    """The pixels themselves, ``[b, c h w]`` float32: fit for tiny images only."""
    return images.flatten(1).float()


@register("features", "pixels")
class Pixels:
    """The pixels themselves as features, without any network: fit for tiny images only.

    Args:
        device: Where the features are given.
    """

    def __init__(self, device: str | torch.device = "cpu"):
        self.name = "pixels"
        self.hash: str | None = None
        self.resize = "none"
        self.outputs = frozenset({"pool"})
        self.device = torch.device(device)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Pixels of images ``[b, c, h, w]`` in [-1, 1]: "pool" ``[b, c h w]`` float32."""
        return {"pool": pixels(images.to(self.device))}


class ClassifierFeatures:
    """The penultimate layer of a classifier network, and its logits.

    Args:
        network: A network with the tap "pooled", such as ``mezzotint.networks.encoder.Encoder``. It is put in evaluation mode.
        time_input: What the network is told of the time: its label of the cleanest level.
        name: What it is called in a protocol.
        hash: SHA-256 of its weights.

    Raises:
        CapabilityError: The network has no such tap.
    """

    def __init__(self, network: nn.Module, time_input: float = 0.0, *, name: str = "classifier", hash: str | None = None):
        if "pooled" not in getattr(network, "taps", ()):
            raise CapabilityError(f"{type(network).__name__} has no tap 'pooled'; give the network of a classifier, or use pixels")
        self.network = network.eval()
        self.time_input = time_input
        self.name, self.hash = name, hash
        self.resize = "none"
        self.outputs = frozenset({"pool", "logits"})

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Features of images ``[b, c, h, w]`` in [-1, 1]: "pool" ``[b, d]`` and "logits" ``[b, K]``, float32."""
        images = images.to(next(self.network.parameters()).device)
        time_input = torch.full((len(images),), self.time_input, device=images.device)
        with full_mantissa():
            pooled = self.network.features(images, time_input, {}, ("pooled",))["pooled"]  # type: ignore[operator]
            logits = self.network.head.out(pooled)  # type: ignore[union-attr, operator]
        return {"pool": pooled.float(), "logits": logits.float()}


@contextmanager
def full_mantissa() -> Iterator[None]:
    """A context without TF32 convolutions, whose rounding shows in the fourth digit and depends on the size of the batch."""
    with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
        yield


def extract(extractor: Extractor, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Features of all batches, each output ``[n, d]`` float32 on the CPU: what precision and recall need at once."""
    parts = [extractor(images) for images in batches]
    return {name: torch.cat([part[name].cpu() for part in parts]) for name in sorted(extractor.outputs)}

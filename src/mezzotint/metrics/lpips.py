"""LPIPS: how different two images look, from weighted differences of AlexNet's features. The weights are fetched where they are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mezzotint.errors import CheckpointError, DataError
from mezzotint.weights.foreign import read_foreign
from mezzotint.weights.hub import fetch, progress_bar
from mezzotint.weights.io import file_hash

ALEXNET = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
ALEXNET_START = "7be5be79"
"""The first digits of the SHA-256 of the network, which its published name has."""
LINEAR = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/alex.pth"
LINEAR_SHA256 = "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"
CHANNELS = (64, 192, 384, 256, 256)
_PLACES = (0, 3, 6, 8, 10)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALLEST = 31
"""Least side of images: the deepest features of smaller ones have no pixel."""


class LPIPS(nn.Module):
    """The distance, version 0.1 with AlexNet.

    Source: Zhang et al. 2018 (LPIPS), equation 1; features: Krizhevsky 2014.
    """

    def __init__(self) -> None:
        super().__init__()
        shapes = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, side, stride=stride, padding=pad) for a, b, side, stride, pad in shapes)
        self.weights = nn.ParameterList(torch.zeros(channels) for channels in CHANNELS)
        self.requires_grad_(False).eval()

    def _features(self, images: Tensor) -> list[Tensor]:
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (_MEAN, _STD))
        h, out = ((images + 1) / 2 - mean) / std, []
        for k, conv in enumerate(self.convs):
            h = F.relu(conv(F.max_pool2d(h, 3, 2) if k in (1, 2) else h))
            out.append(h / (h.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return out

    @torch.no_grad()
    def forward(self, images: Tensor, reference: Tensor) -> Tensor:
        """The distance of each pair, ``[b]`` float32, at least 0.

        Args:
            images: ``[b, 1 or 3, h, w]`` in [-1, 1], sides of at least 31.
            reference: The same shape.

        Raises:
            DataError: Another shape, or images that are too small.
        """
        if images.shape != reference.shape or images.shape[1] not in (1, 3) or min(images.shape[2:]) < SMALLEST:
            raise DataError(
                f"LPIPS of {tuple(images.shape)} and {tuple(reference.shape)}; give images of one size, 1 or 3 channels, "
                f"and at least {SMALLEST}x{SMALLEST} pixels"
            )
        pairs = zip(self._features(self._colour(images)), self._features(self._colour(reference)), self.weights, strict=True)
        parts = [((x - y).square() * weight[:, None, None]).sum(dim=1).mean(dim=(1, 2)) for x, y, weight in pairs]
        return torch.stack(parts).sum(dim=0)

    @staticmethod
    def _colour(images: Tensor) -> Tensor:
        return images.float().expand(-1, 3, -1, -1)


def read_lpips(alexnet: Path, linear: Path) -> LPIPS:
    """The distance from files of its two parts.

    Args:
        alexnet: torchvision's AlexNet.
        linear: The weights of its features.

    Raises:
        CheckpointError: They are not these.
    """
    network, state = LPIPS(), read_foreign(alexnet)
    for conv, place in zip(network.convs, _PLACES, strict=True):
        for part in ("weight", "bias"):
            _fill(getattr(conv, part), state, f"features.{place}.{part}", alexnet)
    state = read_foreign(linear)
    for k, weight in enumerate(network.weights):
        _fill(weight, state, f"lin{k}.model.1.weight", linear)
    return network


def _fill(parameter: Tensor, state: Any, name: str, path: Path) -> None:
    value = state.get(name) if isinstance(state, Mapping) else None
    if not isinstance(value, Tensor) or value.numel() != parameter.numel():
        raise CheckpointError(f"{path} has no '{name}' of {parameter.numel()} numbers; give torchvision's AlexNet and LPIPS 0.1 of AlexNet")
    with torch.no_grad():
        parameter.copy_(value.reshape(parameter.shape))


def published_lpips() -> LPIPS:
    """The published distance, from the cache or fetched (244 MB).

    Raises:
        CheckpointError: It cannot be fetched, or is not the published one.
    """
    alexnet = fetch(ALEXNET, "metrics/alexnet-owt-7be5be79.pth", progress=progress_bar("AlexNet"))
    if not (found := file_hash(alexnet)).startswith(ALEXNET_START):
        raise CheckpointError(f"{alexnet} is not the published file: its SHA-256 begins with {found[:8]}, not {ALEXNET_START}; remove it")
    return read_lpips(alexnet, fetch(LINEAR, "metrics/lpips-0.1-alex.pth", sha256=LINEAR_SHA256, progress=progress_bar("LPIPS")))

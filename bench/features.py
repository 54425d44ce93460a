"""What the benchmarks compare images by: the features of a classifier that is trained here."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from mezzotint.configs import DataConfig
from mezzotint.data import open_source

HELD_OUT = 2000
"""Labelled images that the classifier is tested on; of few, a quarter."""


class Features:
    """The means over the last layer of a plain convolutional classifier.

    Args:
        classes: Number of classes.
    """

    def __init__(self, classes: int):
        widths = (3, 32, 64, 96, 128)
        layers: list[nn.Module] = []
        for k, (a, b) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(a, b, 3, stride=1 if k == 0 else 2, padding=1), nn.GroupNorm(b // 16, b), nn.ReLU()]
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.network = nn.Sequential(self.trunk, nn.Linear(widths[-1], classes))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        return self.trunk(images)


def features(path: str, work: Path, images: int) -> tuple[Features, float]:
    """The features, and the share of images that it was not trained on which the classifier reads right.

    Args:
        path: Labelled 32x32 images.
        work: Folder where the trained classifier is kept.
        images: Training images.
    """
    source = open_source(DataConfig(path=path))
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(source), generator=generator).tolist()
    held_out = min(HELD_OUT, len(order) // 4)
    file = work / f"classifier-{images}.pt"
    torch.manual_seed(0)
    found = Features(len(source.facts.classes))
    if not file.exists():
        optimizer = torch.optim.AdamW(found.network.parameters(), lr=3e-3, weight_decay=0.05)
        steps = images // 64
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        for _ in range(steps):
            rows = torch.randint(held_out, len(order), (64,), generator=generator)
            batch = source.batch([order[int(k)] for k in rows])
            mirror = torch.rand(64, generator=generator)[:, None, None, None] < 0.5
            assert batch.label is not None
            logits = found.network(torch.where(mirror, batch.images.flip(3), batch.images))
            loss = nn.functional.cross_entropy(logits, batch.label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        torch.save(found.network.state_dict(), file)
    found.network.load_state_dict(torch.load(file, weights_only=True))
    found.network.eval()
    with torch.no_grad():
        batch = source.batch(order[:held_out])
        assert batch.label is not None
        right = float((found.network(batch.images).argmax(dim=1) == batch.label).float().mean())
    return found, right

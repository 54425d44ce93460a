"""LPIPS: reading its files, and its formula."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mezzotint.errors import CheckpointError, DataError
from mezzotint.metrics import lpips as module
from mezzotint.metrics.lpips import published_lpips, read_lpips


def alexnet() -> nn.Sequential:
    """The convolutional layers of AlexNet, numbered as torchvision numbers them."""
    torch.manual_seed(0)
    relu, pool = nn.ReLU, lambda: nn.MaxPool2d(3, 2)
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), relu(), pool(), nn.Conv2d(64, 192, 5, padding=2), relu(), pool()),
        *(nn.Conv2d(192, 384, 3, padding=1), relu(), nn.Conv2d(384, 256, 3, padding=1), relu()),
        *(nn.Conv2d(256, 256, 3, padding=1), relu()),
    )


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    torch.save({f"features.{k}": v for k, v in alexnet().state_dict().items()} | {"classifier.1.bias": torch.zeros(2)}, tmp_path / "a.pth")
    weights = {f"lin{k}.model.1.weight": torch.rand(1, n, 1, 1) for k, n in enumerate((64, 192, 384, 256, 256))}
    torch.save(weights, tmp_path / "l.pth")
    return tmp_path / "a.pth", tmp_path / "l.pth"


def test_it_is_that_of_its_definition(files):
    network = read_lpips(*files)
    x, y = torch.rand(2, 2, 3, 40, 35) * 2 - 1
    weights = list(torch.load(files[1]).values())
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    wanted = torch.zeros(2)
    a, b = ((v + 1) / 2 - mean for v in (x, y))
    a, b = a / std, b / std
    seen = 0
    with torch.no_grad():
        for layer in alexnet():
            a, b = layer(a), layer(b)
            if isinstance(layer, nn.ReLU):
                distance = (F.normalize(a, dim=1) - F.normalize(b, dim=1)) ** 2
                wanted += F.conv2d(distance, weights[seen]).mean(dim=(1, 2, 3))
                seen += 1
    assert seen == 5 and torch.allclose(network(x, y), wanted, rtol=1e-4)
    assert torch.equal(network(x, x), torch.zeros(2)) and torch.allclose(network(x, y), network(y, x))
    gray = x[:, :1]
    assert torch.allclose(network(gray, y[:, :1]), network(gray.repeat(1, 3, 1, 1), y[:, :1].repeat(1, 3, 1, 1)))


def test_files_of_something_else(files):
    with pytest.raises(CheckpointError, match=r"no 'features.0.weight' of 23232 numbers"):
        read_lpips(files[1], files[1])
    with pytest.raises(CheckpointError, match=r"no 'lin0.model.1.weight'"):
        read_lpips(files[0], files[0])


def test_published_files_are_checked(files, monkeypatch):
    monkeypatch.setattr(module, "fetch", lambda url, place, **_: files[0] if "alexnet" in place else files[1])
    with pytest.raises(CheckpointError, match="not the published file"):
        published_lpips()
    monkeypatch.setattr(module, "ALEXNET_START", module.file_hash(files[0])[:8])
    assert float(published_lpips()(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32))) == 0


def test_images_that_have_none(files):
    network = read_lpips(*files)
    for a, b in (((1, 3, 30, 40), (1, 3, 30, 40)), ((1, 3, 40, 40), (1, 3, 40, 41)), ((1, 2, 40, 40), (1, 2, 40, 40))):
        with pytest.raises(DataError, match="LPIPS of"):
            network(torch.zeros(a), torch.zeros(b))
    assert network(torch.zeros(1, 3, 31, 31), torch.ones(1, 3, 31, 31)).isfinite().all()

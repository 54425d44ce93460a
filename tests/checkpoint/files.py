"""Small official files with weights that are not zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tests.networks.filling import filled

from mezzotint.checkpoint.official import guided_diffusion
from mezzotint.configs import EncoderConfig, UNetConfig
from mezzotint.networks.encoder import Encoder
from mezzotint.networks.unet import UNet

NET = UNetConfig(in_channels=3, out_channels=6, width=32, mults=(1, 2), blocks=1, attention=(2,), num_classes=4, heads=2)
PLAIN = UNetConfig(in_channels=3, out_channels=3, width=32, mults=(1, 1), blocks=1, attention=(2,), heads=1)
CLASSIFIER = EncoderConfig(3, 5, (8, 8), width=16, mults=(1, 2), blocks=1, attention=(2,), heads=1, head_channels=8)
ANSWERS: dict[str, Any] = {"heads": 2, "attention_order": "legacy", "schedule": "cosine", "time_input": "index", "size": 8, "label.drop": 0}
"""What the file of ``NET`` does not tell."""


def network(config: UNetConfig | EncoderConfig) -> UNet | Encoder:
    return filled(UNet(config) if isinstance(config, UNetConfig) else Encoder(config)).eval()


def official_file(path: Path, config: UNetConfig | EncoderConfig = NET) -> Path:
    """Writes a network as guided-diffusion does."""
    torch.save(guided_diffusion.to_official(network(config).state_dict(), config), path)
    return path


def flags(answers: dict[str, Any]) -> list[str]:
    """Answers as words of the command line."""
    return [word for name, value in answers.items() for word in ("--set", f"{name}={value}")]

"""Outputs of small networks whose weights are those of ``filling``; the numbers were computed once with the authors' code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.networks.filling import filled
from torch import Tensor

from mezzotint.checkpoint.official import guided_diffusion as official
from mezzotint.networks.encoder import Encoder
from mezzotint.networks.unet import UNet

BASE: dict[str, Any] = {
    "image_size": 8,
    "in_channels": 3,
    "model_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": (2,),
    "channel_mult": (1, 2),
    "use_scale_shift_norm": True,
}
TIMES = torch.tensor([3.0, 750.0])


def images() -> tuple[Tensor, Tensor]:
    random = np.random.RandomState(7)
    x, low_res = (torch.from_numpy(random.standard_normal((2, 3, side, side))).float() for side in (8, 4))
    return x, low_res


def check(got: Tensor, every: int, expected: list[list[float]]) -> None:
    torch.testing.assert_close(got.flatten(1)[:, ::every], torch.tensor(expected), rtol=1e-4, atol=2e-5)


def test_upsampler_with_classes() -> None:
    arguments = {**BASE, "out_channels": 6, "num_classes": 5, "resblock_updown": True, "num_head_channels": 16}
    net = filled(UNet(official.superres_from_arguments(arguments)))
    x, low_res = images()
    got = net(x, TIMES, {"label": torch.tensor([1, 4]), "low_res": low_res})
    check(got, 64, [[0.07705, -0.19699, -0.3008, -0.24252, 0.6338, -0.43242], [0.66098, 0.01196, 0.13876, 0.08386, 0.37082, 0.50184]])


def test_additive_embedding_and_the_new_order() -> None:
    arguments = {**BASE, "out_channels": 3, "use_scale_shift_norm": False, "num_heads": 4, "use_new_attention_order": True}
    net = filled(UNet(official.unet_from_arguments(arguments)))
    check(net(images()[0], TIMES, {}), 64, [[-0.38484, 0.16638, -0.60845], [-0.09278, 0.0854, 0.79565]])


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("adaptive", [[-0.38148, 0.049, 0.01839], [-0.2798, 0.02067, -0.05423]]),
        ("attention", [[0.13393, -0.15648, 0.16519], [0.25178, -0.10194, 0.01457]]),
        ("spatial", [[8.4846, 0.76359, -0.21591], [7.66916, 0.6841, 1.90516]]),
        ("spatial_v2", [[9.28782, 0.82176, 0.75832], [8.44913, 0.62849, 1.84687]]),
    ],
)
def test_classifiers(pool: str, expected: list[list[float]]) -> None:
    arguments = {**BASE, "out_channels": 5, "resblock_updown": True, "num_head_channels": 16, "pool": pool}
    net = filled(Encoder(official.encoder_from_arguments(arguments)))
    check(net(images()[0], TIMES, {}), 2, expected)
